"""Parity of the bit-packed operator with stock ONNX Runtime, layer by layer.

The layers of a serving graph are fused and write their outputs in place, so its intermediate values cannot be read.
The audit therefore builds two separate graphs from the same packed file:

- **tapped**: the packed graph, with the inputs and outputs of every custom operator exposed as graph outputs. Each
  binary convolution is duplicated with scale 1, bias 0 and no residual, which exposes its integer sums.
- **isolated**: every custom operator on its own, converted to stock operators (derive.py) and fed exactly the values
  that the operator received in the tapped run. Errors of earlier layers cannot affect the comparison, so integer sums
  and packed signs must be equal bit for bit, and real values may differ by rounding only.

Both graphs run unoptimised, because folding a BatchNorm into a convolution of signs would leave no integers to compare.
When both sides run freely from the image on, they can drift apart, because a value within rounding of zero may get
either sign. `Audit.integer_sums` returns these free-running sums for statistics.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from service import xnor_op
from service.backends import dialect
from service.backends.audit_graphs import Isolated, add_outputs, isolated_graph, signs_input, sum_output, tapped_graph
from service.backends.bits import pack_map, unpack_map
from service.backends.derive import derive_reference
from service.backends.dialect import CustomNode, GraphError, PackedGraph, read_model
from service.backends.session import open_session, run_session
from service.card import Card
from service.errors import ModelBrokenError

Side = Literal["binary", "reference"]
Tensors = dict[str, NDArray[np.generic]]

_EPS = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class LayerParity:
    """The audit's findings for one custom operator.

    Attributes:
        layer: name of the node.
        op: type of the operator.
        sums: number of integer sums compared; 0 for operators without sums.
        sum_mismatches: number of sums that differ.
        words: number of words of packed signs compared, including borders and unused bits; 0 if it packs none.
        word_mismatches: number of words that differ from the signs of the operator's own real values.
        rounding: largest difference of a real value from the stock operators, divided by the bound on rounding errors.
    """

    layer: str
    op: str
    sums: int = 0
    sum_mismatches: int = 0
    words: int = 0
    word_mismatches: int = 0
    rounding: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether all integers are equal and all real values agree within rounding."""
        return self.sum_mismatches == 0 and self.word_mismatches == 0 and self.rounding <= 1.0


class Audit:
    """The audit graphs of one packed model; sessions are opened when first used.

    Args:
        model: the packed model.
        name: the model's name in error messages.
        intra_op_threads: number of threads that one run may use.

    Raises:
        ModelBrokenError: the graph breaks the dialect's rules.
    """

    def __init__(self, model: onnx.ModelProto, name: str, *, intra_op_threads: int = 1) -> None:
        self._name = f"{name} (audit)"
        self._threads = intra_op_threads
        self._model = model
        try:
            self._graph = PackedGraph(model)
            self._isolated: Isolated = isolated_graph(self._graph)
        except GraphError as error:
            raise ModelBrokenError(self._name, str(error)) from error

    @classmethod
    def of_card(cls, card: Card) -> Self:
        """Creates the audit for a binary model's file.

        Raises:
            ModelBrokenError: the file cannot be read or breaks the dialect's rules.
        """
        try:
            model = read_model(card.path)
        except GraphError as error:
            raise ModelBrokenError(card.name, str(error)) from error
        return cls(model, card.name)

    def compare(self, images: NDArray[np.uint8]) -> tuple[LayerParity, ...]:
        """Compares every custom operator with stock operators on the same input values.

        Args:
            images: uint8 [N, H, W, 3] RGB of the model's input size.

        Returns:
            One finding per custom operator, in graph order.

        Raises:
            ModelBrokenError: a graph does not load or fails.
            OpUnavailableError: the operator's library is missing or cannot be loaded.
        """
        tapped = self._run(self._tapped_session, {"image": images}) | {"image": images}
        feeds: Tensors = {}
        for value in self._isolated.model.graph.input:
            if value.name in tapped:
                feeds[value.name] = tapped[value.name]
        for bits, channels in self._isolated.signs.items():
            signs = unpack_map(tapped[bits].astype(np.int32, copy=False), channels)
            feeds[signs_input(bits)] = np.ascontiguousarray(signs.transpose(0, 3, 1, 2))
        isolated = self._run(self._isolated_session, feeds)
        return tuple(self._layer(node, tapped, isolated) for node in self._graph.custom_nodes)

    def integer_sums(self, images: NDArray[np.uint8], side: Side = "binary") -> dict[str, NDArray[np.int32]]:
        """Returns the integer sums of every binary convolution in a free run from the image on.

        Args:
            images: uint8 [N, H, W, 3] RGB of the model's input size.
            side: which network to run: `binary` (the custom operator) or `reference`.

        Returns:
            int32 [N, OH, OW, O] by layer name.

        Raises:
            ModelBrokenError: a graph does not load or fails, or a sum is not an integer.
            OpUnavailableError: the operator's library is missing or cannot be loaded.
        """
        if side == "binary":
            tapped = self._run(self._tapped_session, {"image": images})
            found = {layer: tapped[sum_output(layer)] for layer in self._isolated.sums}
        else:
            session, names = self._reference_session
            outputs = self._run(session, {"image": images})
            found = {layer: outputs[name].transpose(0, 2, 3, 1) for layer, name in names.items()}
        sums = {layer: value.astype(np.int32) for layer, value in found.items()}
        for layer, value in sums.items():
            if not np.array_equal(value, found[layer]):
                raise ModelBrokenError(self._name, f"layer {layer}: the {side} side's sums are not integers.")
        return sums

    def _layer(self, node: CustomNode, tapped: Tensors, isolated: Tensors) -> LayerParity:
        """Compares one operator; see `LayerParity`."""
        sums = sum_mismatches = words = word_mismatches = 0
        rounding = 0.0
        if node.layer in self._isolated.sums:
            ours = tapped[sum_output(node.layer)]
            theirs = isolated[self._isolated.sums[node.layer]].transpose(0, 2, 3, 1)
            sums, sum_mismatches = ours.size, _differing(ours, theirs)
        if node.layer in self._isolated.values:
            y, expected = tapped[node.output(0)], isolated[self._isolated.values[node.layer]]
            rounding = _share(y, expected, self._bound(node, tapped))
        bits = node.output(0) if node.op == dialect.PACK else node.output(1)
        if bits:
            real = tapped[node.input(0) if node.op == dialect.PACK else node.output(0)].astype(np.float32, copy=False)
            if node.op == dialect.PACK and node.input(1):
                threshold = self._graph.constant(node, 1, "threshold", (None,))
                expected_bits = pack_map(real, threshold.astype(np.float32, copy=False))
            else:
                expected_bits = pack_map(real)
            words, word_mismatches = expected_bits.size, _differing(tapped[bits], expected_bits)
        return LayerParity(node.layer, node.op, sums, sum_mismatches, words, word_mismatches, rounding)

    def _bound(self, node: CustomNode, tapped: Tensors) -> NDArray[np.float64]:
        """Bound on the difference of two correct float32 evaluations of an operator, broadcastable to its output.

        The rounding error of a sum of n terms is at most n eps/2 times the sum of the terms' magnitudes, so two
        evaluations differ by at most twice that.
        """
        if node.op in (dialect.AVG_POOL2, dialect.GLOBAL_MEAN):
            x = np.abs(tapped[node.input(0)])
            terms = 4 if node.op == dialect.AVG_POOL2 else x[0, ..., 0].size
            return np.asarray(terms * _EPS * x.max())
        scale = np.abs(self._graph.constant(node, 2, "scale", (None,)).astype(np.float64))
        bias = np.abs(self._graph.constant(node, 3, "bias", (None,)).astype(np.float64))
        if node.op == dialect.BCONV:
            magnitude = np.abs(tapped[sum_output(node.layer)]) * scale + bias
            if node.input(4):
                magnitude = magnitude + np.abs(tapped[node.input(4)])
            return np.asarray(4 * _EPS * magnitude)
        if node.op == dialect.POINTWISE:
            stored = self._graph.constant(node, 1, "weight", (None, None))
            x = np.abs(tapped[node.input(0)].astype(np.float64))
            if stored.dtype == np.int8:  # the sums are exact: only the few operations after them round
                x = np.broadcast_to(x.max(axis=-1, keepdims=True), x.shape)
            terms = 4 if stored.dtype == np.int8 else len(stored) + 4
            return np.asarray(terms * _EPS * (x @ np.abs(stored.astype(np.float64)) * scale + bias))
        weight = np.abs(self._graph.constant(node, 1, "weight", (None, None, None, 3)).astype(np.float64))
        mean = self._graph.constant(node, 4, "mean", (3,)).astype(np.float64)
        terms = (weight * np.maximum(np.abs(mean), np.abs(255 - mean))).sum(axis=(1, 2, 3))  # [O]; pooling keeps it
        return np.asarray((weight[0].size + 4) * _EPS * (terms * scale + bias))

    def _run(self, session: ort.InferenceSession, feeds: Tensors) -> Tensors:
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, run_session(session, names, feeds, name=self._name), strict=True))

    def _open(self, model: onnx.ModelProto, *, custom: bool = False) -> ort.InferenceSession:
        return open_session(
            model.SerializeToString(),
            name=self._name,
            intra_op_threads=self._threads,
            op_library=xnor_op.library_path() if custom else None,
            optimise=False,
        )

    @cached_property
    def _tapped_session(self) -> ort.InferenceSession:
        return self._open(tapped_graph(self._graph), custom=True)

    @cached_property
    def _isolated_session(self) -> ort.InferenceSession:
        return self._open(self._isolated.model)

    @cached_property
    def _reference_session(self) -> tuple[ort.InferenceSession, dict[str, str]]:
        """Session of the derived reference with its integer sums as outputs, and the outputs' names by layer."""
        try:
            reference = derive_reference(self._model)
        except GraphError as error:
            raise ModelBrokenError(self._name, str(error)) from error
        add_outputs(reference.model, dict.fromkeys(reference.sums.values(), onnx.TensorProto.FLOAT))
        return self._open(reference.model), reference.sums


def _differing(ours: NDArray[np.generic], theirs: NDArray[np.generic]) -> int:
    """Number of elements that differ; all of them if the shapes do."""
    return int(np.count_nonzero(ours != theirs)) if ours.shape == theirs.shape else ours.size


def _share(y: NDArray[np.generic], expected: NDArray[np.generic], bound: NDArray[np.float64]) -> float:
    """Largest |y - expected| / bound; infinite if the shapes differ, NaN if a value is."""
    if y.shape != expected.shape:
        return float("inf")
    difference = np.abs(y.astype(np.float64) - expected.astype(np.float64))
    return float((difference / np.maximum(bound, np.finfo(np.float64).tiny)).max(initial=0.0))
