"""Memory and BOPs of an exported graph, counted from its operators and constants (paper Sec. 4.4.1).

The graph has BatchNorm and scales folded into a scale and a bias for each channel, so real parameters differ a little
from the network's own count (by more for ABC-Net, whose bases keep theirs). Multiply-accumulates are the same but for
XNOR-Net and ABC-Net: what is done to a sum afterwards (scale, bias, shortcut) does not count, and the factors that only
they keep cannot be told from a folded BatchNorm here (`NOTE`).
"""

from __future__ import annotations

from math import prod

import onnx

from models.accounting import Cost
from models.export.graph import strided
from service.backends.dialect import DOMAIN
from service.backends.weights import count_weights

NOTE = (
    "BatchNorm counts as a scale and a bias a channel. The factors that XNOR-Net and ABC-Net keep at inference cannot "
    "be told from these: their real multiplications (2 an output, one a pair of bases) are missing here, but are in "
    "the model's card and in the count of the network, --depth N --method NAME."
)


def cost_of_graph(model: onnx.ModelProto) -> Cost:
    """Count one image's work and the parameters of a graph that models.export wrote.

    Raises:
        ValueError: a shape that the count needs is not declared.
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
