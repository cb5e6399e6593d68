"""Builds of a network that keep BatchNorm, shortcut and activation separate from the convolution, for timing."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from service.backends import dialect

CONVOLUTION, BEHIND = "_conv", "_behind"
"""Name suffixes of a convolution and of the nodes that are otherwise fused into it."""


def unfused_full(body: onnx.ModelProto) -> onnx.ModelProto:
    """The float network with a BatchNormalization after each convolution.

    Its parameters make it add only the bias; the time does not depend on them.

    Args:
        body: the network, with BatchNorm folded into its convolutions.
    """
    model, nodes = _copy(body), []
    sizes = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer}
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type != "Conv" or len(node.input) < 3:
            continue
        out, bias = node.output[0], node.input[2]
        del node.input[2]
        node.name = node.output[0] = out + CONVOLUTION
        inputs = [node.output[0], _add(model, f"{out}_scale", np.ones(sizes[bias])), bias]
        inputs += [_add(model, f"{out}_mean", np.zeros(sizes[bias])), _add(model, f"{out}_var", np.ones(sizes[bias]))]
        nodes.append(helper.make_node("BatchNormalization", inputs, [out], name=out + BEHIND, epsilon=0.0))
    return _with_nodes(model, nodes)


def unfused_packed(packed: onnx.ModelProto) -> onnx.ModelProto:
    """The packed network with BatchNorm (multiply, add), shortcut and signs as separate nodes."""
    model, nodes = _copy(packed), []
    sizes = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if tensor.dims}
    for node in model.graph.node:
        if node.op_type != dialect.BCONV:
            nodes.append(node)
            continue
        bits, weight, scale, bias, *shortcut = node.input
        y = node.output[0]
        one = _add(model, f"{y}_one", np.ones(sizes[scale]))
        zero = _add(model, f"{y}_zero", np.zeros(sizes[bias]))
        plain = onnx.NodeProto()
        plain.CopyFrom(node)
        plain.name = f"{y}{CONVOLUTION}"
        del plain.input[:], plain.output[:]
        plain.input.extend([bits, weight, one, zero])
        plain.output.append(plain.name)
        scaled, shifted = f"{y}_scaled{BEHIND}", f"{y}_shifted{BEHIND}"
        nodes += [
            plain,
            helper.make_node("Mul", [plain.name, scale], [scaled], name=scaled),
            helper.make_node("Add", [scaled, bias], [shifted if shortcut else y], name=shifted),
        ]
        if shortcut:
            nodes.append(helper.make_node("Add", [shifted, shortcut[0]], [y], name=f"{y}_shortcut{BEHIND}"))
        if len(node.output) > 1 and node.output[1]:
            signs = helper.make_node(dialect.PACK, [y], [node.output[1]], name=f"{y}_signs{BEHIND}", domain=node.domain)
            nodes.append(signs)
    return _with_nodes(model, nodes)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result


def _add(model: onnx.ModelProto, name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return name


def _with_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model
