"""``python -m models.export.fuse FOLDER``: rewrite an older export's real-valued 1x1 convolutions to `Pointwise`.

Exports older than that operator use standard nodes instead: `MatMul`, a leaky clip of four nodes, `Add` and `Pack`, and
`ReduceMean` and `Gemm` for the classifier. 1-bit weights, stem and scales stay the same byte for byte. Real-valued
weights stay as stored or, with ``--pointwise int8``, are rounded to 8 bits. The card's weights, checksum and precision
are updated, and its metrics if ``--evaluate`` gives the data they were measured on.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.command_line import Parser, expects, show
from models.export.card import replace_files, weights_entry
from models.export.measure import evaluate_aside
from models.export.packed_ops import INT8_LIMIT, POINTWISE_PRECISIONS, rounded
from models.export.readings import occasion
from service.backends.dialect import DOMAIN
from service.card import Card
from service.errors import ServiceError

Values = NDArray[np.generic]


def fuse(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The same network with `Pointwise` and `GlobalMean` instead of standard nodes.

    Args:
        model: a packed graph; it is not modified.
        precision: ``int8`` for the convolutions inside the network, ``float32`` to keep weights as stored. The
            weights of the classifier and of one-channel score maps are always kept as stored.

    Raises:
        ValueError: there is nothing to replace.
    """
    return _Fusion(model, precision).run()


class _Fusion:
    def __init__(self, model: onnx.ModelProto, precision: str) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._int8 = precision == "int8"
        self._count = len(model.graph.node) + len(model.graph.initializer)  # above every number in use
        graph = self._model.graph
        self._stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Cast" and node.input[0] in self._stored:
                self._stored[node.output[0]] = self._stored[node.input[0]]  # float16, widened by a Cast
        self._made_by = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._shapes = {
            v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.value_info, *graph.output)
        }
        self._gone: set[tuple[str, str]] = set()  # replaced nodes: (type, output)

    def run(self) -> onnx.ModelProto:
        """Rewrite the graph and drop nodes and constants that are no longer used."""
        graph = self._model.graph
        nodes: list[onnx.NodeProto] = []
        replaced = 0
        for node in graph.node:
            weight = self._stored.get(node.input[1]) if len(node.input) > 1 else None
            if node.op_type == "MatMul" and weight is not None and len(self._shapes.get(node.output[0], ())) == 4:
                nodes.append(self._product(node, weight))
                replaced += 1
            elif node.op_type == "Gemm" and weight is not None and self._mean_of(node) is not None:
                nodes += self._classifier(node)
                replaced += 1
            else:
                nodes.append(node)
        if not replaced:
            raise ValueError(
                "the graph has no MatMul or Gemm to replace: its real-valued 1x1 convolutions are `Pointwise` already. "
                "To store them in another precision, export the checkpoint again with models.export --pointwise"
            )
        kept = _alive(
            [node for node in nodes if (node.op_type, node.output[0]) not in self._gone], [o.name for o in graph.output]
        )
        used = {name for node in kept for name in node.input}
        made = {name for node in kept for name in node.output}
        tensors = [tensor for tensor in graph.initializer if tensor.name in used]
        values = [value for value in graph.value_info if value.name in made]
        for field, content in ((graph.node, kept), (graph.initializer, tensors), (graph.value_info, values)):
            del field[:]
            field.extend(content)
        onnx.checker.check_model(self._model)
        return self._model

    def _product(self, node: onnx.NodeProto, weight: Values) -> onnx.NodeProto:
        """A `Pointwise` that replaces a MatMul, a leaky clip before it, and a bias and packed signs after it."""
        y = node.output[0]
        inputs, outputs = [node.input[0]], [y]
        bias: Values = np.zeros(weight.shape[1], np.float32)
        slope = self._leaky_clip(inputs[0])
        if slope is not None:
            inputs[0] = slope[0]
        add = self._only_reader(y, "Add")
        if add is not None and self._stored.get(add.input[1], np.zeros(0)).shape == bias.shape:
            bias, outputs = self._stored[add.input[1]], [add.output[0]]
            self._gone.add(("Add", outputs[0]))
            packs = [n for n in self._readers.get(outputs[0], []) if n.op_type == "Pack" and len(n.input) == 1]
            if packs:
                outputs.append(packs[0].output[0])
                self._gone.add(("Pack", outputs[1]))
        scale: Values = np.ones(weight.shape[1], np.float32)
        if self._int8 and weight.shape[1] > 1:
            numbers, scales = rounded(weight.astype(np.float64), INT8_LIMIT, axes=0)
            weight, scale = numbers.astype(np.int8), scales.astype(np.float32)
        hint = y.rsplit("_", 1)[0]
        constants = [self._store(hint, what, v) for what, v in (("weight", weight), ("scale", scale), ("bias", bias))]
        if slope is not None:
            constants.append(self._store(hint, "slope", slope[1]))
        return self._custom("Pointwise", [*inputs, *constants], outputs)

    def _classifier(self, gemm: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Nodes that replace ReduceMean and Gemm; weights as stored."""
        features = self._mean_of(gemm)
        assert features is not None
        y, weight = gemm.output[0], self._stored[gemm.input[1]]
        channels, classes = weight.shape
        mean, scores = f"{y}_mean", f"{y}_scores"
        for name, size in ((mean, channels), (scores, classes)):
            shape = ["N", 1, 1, size]
            self._model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        ones = self._store("fc", "scale", np.ones(classes, np.float32))
        inputs = [mean, self._store("fc", "weight", weight), ones, gemm.input[2]]
        flat = self._store("fc", "shape", np.array([0, classes], np.int64))
        return [
            self._custom("GlobalMean", [features], [mean]),
            self._custom("Pointwise", inputs, [scores]),
            helper.make_node("Reshape", [scores, flat], [y], name=y),
        ]

    def _mean_of(self, gemm: onnx.NodeProto) -> str | None:
        mean = self._made_by.get(gemm.input[0])
        if mean is None or mean.op_type != "ReduceMean" or len(self._readers[mean.output[0]]) != 1:
            return None
        return str(mean.input[0])

    def _leaky_clip(self, name: str) -> tuple[str, Values] | None:
        """(x, slope [1]) if a value is slope * x + (1 - slope) * clip(x)."""
        add = self._made_by.get(name)
        if add is None or add.op_type != "Add":
            return None
        outside, inside = (self._made_by.get(n) for n in add.input)
        if outside is None or inside is None or (outside.op_type, inside.op_type) != ("Mul", "Mul"):
            return None
        clip = self._made_by.get(inside.input[0])
        if clip is None or clip.op_type != "Clip" or clip.input[0] != outside.input[0]:
            return None
        slope = np.asarray(self._stored[outside.input[1]], np.float32).reshape(1)
        rest = np.asarray(self._stored[inside.input[1]], np.float32).reshape(1)
        limits = [self._stored[n].item() for n in clip.input[1:]]
        return (clip.input[0], slope) if limits == [-1.0, 1.0] and np.array_equal(rest, np.float32(1) - slope) else None

    def _only_reader(self, name: str, op_type: str) -> onnx.NodeProto | None:
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and readers[0].op_type == op_type else None

    def _store(self, hint: str, what: str, value: Values) -> str:
        """Store a constant, named as in `GraphBuilder`: <hint>_<what>_<number>."""
        self._count += 1
        name = f"{hint}_{what}_{self._count}"
        self._model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    @staticmethod
    def _custom(op_type: str, inputs: list[str], outputs: list[str]) -> onnx.NodeProto:
        return helper.make_node(op_type, inputs, outputs, name=outputs[0], domain=DOMAIN)


def _alive(nodes: list[onnx.NodeProto], outputs: list[str]) -> list[onnx.NodeProto]:
    """The nodes that contribute to ``outputs``, in order."""
    needed, alive = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            alive.append(node)
            needed.update(node.input)
    return alive[::-1]


def rewrite(folder: Path, precision: str, data: Path | None, dataset: str) -> dict[str, object]:
    """Rewrite a model folder in place, and return a summary of the changes for printing.

    Raises:
        ServiceError: the folder does not hold a valid model.
        ValueError: the model is not binary or needs no rewriting, or the evaluation fails.
    """
    card = Card.load(folder)
    if card.precision != "binary":
        raise ValueError(f"{card.name} is not a binary model: there is nothing to rewrite")
    card.verify_file()  # or the new card would call a damaged file intact
    before = card.path.read_bytes()
    model = fuse(onnx.load_from_string(before), precision)
    content = model.SerializeToString()
    document = card.model_dump(mode="json")
    document["sha256"] = hashlib.sha256(content).hexdigest()
    document["pointwise_precision"] = precision
    document["weights"] = weights_entry(model, len(content))
    if data is not None:
        now = occasion("models.export.fuse", dataset)
        measured = evaluate_aside(Card.model_validate(document), model, ("binary", "reference"), data, now)
        document["training"]["notes"] += _change(document["metrics"], measured[0], precision)
        document["metrics"] = [m for m in document["metrics"] if m["dataset"] != dataset] + measured
    replace_files(folder, Card.model_validate(document), content)
    return {"folder": folder.name, "bytes": [len(before), len(content)], "metrics": document["metrics"]}


def _change(before: list[dict[str, Any]], after: dict[str, Any], precision: str) -> str:
    """A sentence for the card: the effect of the precision on the binary variant's main metric."""
    found = [m for m in before if (m["dataset"], m["variant"]) == (after["dataset"], after["variant"])]
    if not found:
        return ""
    name = "delta1" if "delta1" in after["values"] else "top1"
    figures = [f"{m['values'][name]:.4f}" for m in (after, found[0])]
    return (
        f" Real-valued 1x1 convolutions in {precision}: {name} {figures[0]} against {figures[1]} before "
        f"({after['dataset']}, n={after['n']}, python -m models.export.fuse)."
    )


@expects(OSError, ValueError, ServiceError)
def main() -> int:
    """Parse arguments, rewrite, print a summary as JSON."""
    parser = Parser(prog="python -m models.export.fuse", description=__doc__)
    parser.add_argument("folder", type=Path, help="<models>/<name>/<version>; rewritten in place")
    parser.add_argument(
        "--pointwise", choices=POINTWISE_PRECISIONS, default="int8", help="weight precision (default int8)"
    )
    parser.add_argument("--evaluate", type=Path, help="labelled folder or drive to evaluate on for the card")
    parser.add_argument("--dataset", default="dev", help="name of that data in the card (default dev)")
    args = parser.parse_args()
    show(json.dumps(rewrite(args.folder, args.pointwise, args.evaluate, args.dataset), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
