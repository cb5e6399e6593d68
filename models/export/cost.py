"""Memory and BOPs of an exported graph, counted from its operators and constants (paper Sec. 4.4.1).

In the graph, BatchNorm and scales are folded into one scale and one bias per channel, so the real parameters differ
slightly from the network's own count (more for ABC-Net, whose bases keep their own). Multiply-accumulates are equal
except for XNOR-Net and ABC-Net: operations on a finished sum (scale, bias, shortcut) are not counted, and the factors
of these methods cannot be distinguished from a folded BatchNorm in the graph (`NOTE`).
"""

from __future__ import annotations

from math import prod

import onnx

from models.cost import Cost
from models.export.graph import strided
from service.backends.dialect import DOMAIN
from service.backends.weights import count_weights

NOTE = (
    "BatchNorm counts as one scale and one bias per channel. The factors that XNOR-Net and ABC-Net keep at inference "
    "cannot be distinguished from these, so their real multiplications (XNOR-Net: 2 per output; ABC-Net: one per pair "
    "of bases) are missing here. The model's card and --depth N --method NAME include them."
)


def cost_of_graph(model: onnx.ModelProto) -> Cost:
    """Count the parameters of a graph written by models.export, and its operations for one image.

    Raises:
        ValueError: the graph lacks a shape that is needed.
    """
    graph = model.graph
    shapes: dict[str, list[int]] = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in shapes:
            shapes.setdefault(node.output[0], shapes[node.input[0]])  # a weight stored in float16

    def shape(name: str) -> list[int]:
        if name not in shapes:
            raise ValueError(f"the graph does not declare the shape of {name!r}: export it with models.export")
        return shapes[name]

    binary = real = 0
    for node in graph.node:
        weight = (
            shape(node.input[1]) if node.op_type in ("BConv", "Stem", "Pointwise", "Conv", "MatMul", "Gemm") else []
        )
        attributes = {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}
        if node.domain == DOMAIN and node.op_type == "BConv":
            window = attributes["channels"] * attributes["kernel"] ** 2
            binary += prod(shape(node.output[0])[1:]) * window
        elif node.domain == DOMAIN and node.op_type == "Stem":
            _, height, width, _ = shape(node.input[0])
            real += prod(strided(size, attributes["stride"]) for size in (height, width)) * prod(weight)
        elif node.op_type == "Conv":
            real += prod(shape(node.output[0])[1:]) * prod(weight[1:])
        elif node.op_type in ("Pointwise", "MatMul", "Gemm"):
            real += prod(shape(node.output[0])[1:]) * weight[0]
    weights = count_weights(model)
    return Cost(weights.binary_params, weights.real_params, binary, real)
