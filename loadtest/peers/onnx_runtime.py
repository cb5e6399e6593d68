"""Ways to run a pair of networks on ONNX Runtime: float32, 8 bit, the derived reference, and the bit-packed operator.

A `Way` says which of the two networks it runs, how to prepare a run, and how close the output must be to the oracle:
the same network in standard operators without any optimisation.
"""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from loadtest.measures.interleave import Output, ParityError, Run
from loadtest.peers.graph import channels_first, split_front, widen_constants, without_rounding
from loadtest.peers.networks import Pair
from loadtest.peers.photos import Images, photos
from service import xnor_op
from service.backends.audit import Audit
from service.backends.batches import images_a_run
from service.backends.derive import derive_reference
from service.backends.session import open_session, run_images

CALIBRATION_IMAGES = 8

# Minimum correlation of a row's output with its oracle's. Float runtimes differ by rounding. In 1-bit networks rounding
# can flip the sign of a value near zero, which changes all that follows. With 8 bits every layer loses precision.
ROUNDING = 0.9999
SIGN_FLIPS = 0.95
EIGHT_BITS = 0.9

# `unrounded` is the binary network with float32 1x1 convolutions. It has its own oracle: the rounding that it leaves
# out flips signs, so that comparing it with the served network would say little about either.
Side = Literal["full", "binary", "unrounded"]


@dataclass(frozen=True)
class Way:
    """One way to run one network of a pair.

    Attributes:
        name: last part of the row's name.
        side: which network of the pair, and which oracle.
        min_correlation: minimum correlation with the oracle's output.
        open: (workload, threads, images) -> the run on these images.
    """

    name: str
    side: Side
    min_correlation: float
    open: Callable[[Workload, int, Images], Run]


class Workload:
    """A pair in all forms that the ways need, each created on first use.

    Args:
        pair: the networks.
    """

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self._audited: dict[int, int] = {}

    def row_name(self, way: Way) -> str:
        """Name of a way's row."""
        return f"{self.pair.full_name if way.side == 'full' else self.pair.binary_name}/{way.name}"

    @cached_property
    def full(self) -> onnx.ModelProto:
        """The twin, on uint8 images."""
        return widen_constants(self.pair.graphs[0])

    @cached_property
    def full_parts(self) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        """(front, body) of the twin: the body takes float NCHW."""
        return split_front(self.full)

    @cached_property
    def full_int8(self) -> onnx.ModelProto:
        """The twin's body, statically quantised."""
        front, body = self.full_parts
        images = photos(CALIBRATION_IMAGES, self.pair.height, self.pair.width, seed=1)
        return quantise(body, (run_front(front, image[None]) for image in images))

    @cached_property
    def packed(self) -> onnx.ModelProto:
        """The binary network as served."""
        return self.pair.graphs[1]

    @cached_property
    def reference(self) -> onnx.ModelProto:
        """The binary network in standard float operators."""
        return derive_reference(self.packed).model

    @cached_property
    def unrounded(self) -> onnx.ModelProto:
        """The reference without the rounding of 8-bit 1x1 convolutions, for runtimes other than ONNX Runtime."""
        return derive_reference(without_rounding(self.packed)).model

    @cached_property
    def unrounded_parts(self) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        """(front, body) of that, NCHW throughout."""
        return split_front(channels_first(widen_constants(self.unrounded)))

    def oracle(self, side: Side, images: Images) -> Output:
        """Output of a network in standard operators, unoptimised."""
        model = self.full if side == "full" else self.reference if side == "binary" else self.unrounded
        session = open_session(model.SerializeToString(), name="oracle", intra_op_threads=1, optimise=False)
        return _run_once(session, {"image": images})

    def audit(self, threads: int, images: Images) -> int:
        """Compares every operator of the packed graph with standard operators, once per number of threads.

        Returns:
            The number of operators, all of which are exact.

        Raises:
            ParityError: an integer sum or a packed sign differs, or a real value differs by more than rounding.
        """
        if threads not in self._audited:
            layers = Audit(self.packed, self.pair.binary_name, intra_op_threads=threads).compare(images[:1])
            wrong = [layer.layer for layer in layers if not layer.exact]
            if wrong:
                raise ParityError(f"{self.pair.binary_name}: inexact operators: {', '.join(wrong)}.")
            self._audited[threads] = len(layers)
        return self._audited[threads]


def run_front(front: onnx.ModelProto, images: Images) -> NDArray[np.float32]:
    """Runs the split-off front once, which gives the float input of the body."""
    session = open_session(front.SerializeToString(), name="front", intra_op_threads=1)
    return _run_once(session, {"image": images})


def quantise(model: onnx.ModelProto, inputs: Iterator[NDArray[np.float32]]) -> onnx.ModelProto:
    """Static 8-bit quantisation in QDQ format: per-channel weights, per-tensor activations, min-max calibration.

    Args:
        model: a float graph with one input.
        inputs: calibration inputs.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    name = model.graph.input[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc] # onnxruntime carries no types
        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            value = next(inputs, None)
            return None if value is None else {name: value}

    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        quantize_static(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(target)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the quantiser's advice, which it logs to the root logger."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)


def _run_once(session: ort.InferenceSession, feeds: Mapping[str, NDArray[np.generic]]) -> Output:
    (output,) = session.run(None, dict(feeds))
    return np.asarray(output, np.float32)


def _session_run(name: str, engine: str, model: onnx.ModelProto, threads: int, feed: NDArray[np.generic]) -> Run:
    session = open_session(model.SerializeToString(), name=name, intra_op_threads=threads)
    feeds = {session.get_inputs()[0].name: feed}
    return Run(name, engine, lambda: session.run(None, feeds), lambda: _run_once(session, feeds))


def _fp32(workload: Workload, threads: int, images: Images) -> Run:
    front, body = workload.full_parts
    return _session_run(workload.row_name(ORT_FP32), "onnxruntime float32", body, threads, run_front(front, images))


def _int8(workload: Workload, threads: int, images: Images) -> Run:
    feed = run_front(workload.full_parts[0], images)
    return _session_run(workload.row_name(ORT_INT8), "onnxruntime int8 (QDQ)", workload.full_int8, threads, feed)


def _binary(workload: Workload, threads: int, images: Images) -> Run:
    """Runs as in the service: a batch is split if its feature maps exceed the caches."""
    name = workload.row_name(BINARY)
    model = workload.packed
    session = open_session(
        model.SerializeToString(), name=name, intra_op_threads=threads, op_library=xnor_op.library_path()
    )
    most = images_a_run(declared_map_bytes(model))
    output = session.get_outputs()[0].name

    def call() -> Output:
        return run_images(session, output, images, most, name=name)

    return Run(name, f"bireal operator ({xnor_op.kernel_name()})", call, call)


def declared_map_bytes(model: onnx.ModelProto) -> int:
    """Size of the largest float feature map of one image declared in a packed graph; 0 if none is declared."""
    largest = 0
    for value in model.graph.value_info:
        tensor = value.type.tensor_type
        if tensor.elem_type == onnx.TensorProto.FLOAT:
            largest = max(largest, 4 * math.prod(dim.dim_value for dim in tensor.shape.dim[1:]))  # without the batch
    return largest


def _reference(workload: Workload, threads: int, images: Images) -> Run:
    return _session_run(
        workload.row_name(REFERENCE), "onnxruntime float32 (derived)", workload.reference, threads, images
    )


ORT_FP32 = Way("ort-fp32", "full", ROUNDING, _fp32)
ORT_INT8 = Way("ort-int8", "full", EIGHT_BITS, _int8)
BINARY = Way("binary", "binary", SIGN_FLIPS, _binary)
REFERENCE = Way("reference", "binary", SIGN_FLIPS, _reference)
WAYS = (ORT_FP32, BINARY, REFERENCE, ORT_INT8)
