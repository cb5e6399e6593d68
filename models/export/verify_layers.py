"""Compares the parts of a packed export with the same parts in float32, each on its own.

A free run cannot tell rounding from a fault: in a 1-bit network it flips signs, and the logits of a random network of
50 layers keep a correlation of no more than 0.15 with the exact ones.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.backends.derive import derive_reference
from service.backends.dialect import DOMAIN, POINTWISE, STEM, CustomNode, PackedGraph

SIDE = 16  # height and width of a 1x1 convolution's test input

Values = NDArray[np.generic]


def layer_errors(model: onnx.ModelProto, exact: onnx.ModelProto, images: NDArray[np.uint8]) -> dict[str, float]:
    """Relative error of each stem and real-valued 1x1 convolution of a packed model, on the same input values.

    Args:
        model: the packed model.
        exact: an export of the same network in float32.
        images: input of the stem, uint8 [N,H,W,3]. 1x1 convolutions get random numbers.

    Returns:
        By layer, the root mean square of the difference as a share of the exact values' deviation from their channel's
        mean. NaN or infinite if a value is not finite.

    Raises:
        ValueError: the models do not have the same layers.
    """
    graphs = PackedGraph(model), PackedGraph(exact)
    ours, theirs = ([(node.layer, node.op) for node in graph.custom_nodes] for graph in graphs)
    if ours != theirs:
        raise ValueError("the exported graph does not have the layers of the float32 export")
    random = np.random.default_rng(0)
    errors = {}
    for pair in zip(*(graph.custom_nodes for graph in graphs), strict=True):
        node = pair[0]
        if node.op not in (STEM, POINTWISE):
            continue
        x: Values = images
        if node.op == POINTWISE:
            channels = graphs[0].constant(node, 1, "weight", (None, None)).shape[0]
            x = random.standard_normal((1, SIDE, SIDE, channels)).astype(np.float32)
        y, expected = (_output(graph, each, x) for graph, each in zip(graphs, pair, strict=True))
        spread = np.square(expected - expected.mean(axis=(0, 1, 2), keepdims=True)).mean()
        with np.errstate(over="ignore"):
            share = np.square(y - expected).mean() / np.maximum(spread, np.finfo(np.float64).tiny)
        errors[node.layer] = float(np.sqrt(share))
    return errors


def changed_constants(model: onnx.ModelProto, exact: onnx.ModelProto) -> list[str]:
    """Nodes of a packed model that differ from the float32 export's in anything but rounded weights and their scales.

    Raises:
        ValueError: the models do not have the same nodes.
    """
    ours, theirs = ({t.name: t for t in each.graph.initializer} for each in (model, exact))
    if [(n.op_type, list(n.input)) for n in model.graph.node] != [(n.op_type, list(n.input)) for n in exact.graph.node]:
        raise ValueError("the exported graph does not have the nodes of the float32 export")
    changed = []
    for node, twin in zip(model.graph.node, exact.graph.node, strict=True):
        rounded = node.input[1:3] if node.op_type in (STEM, POINTWISE) else ()
        names = [name for name in node.input if name in ours and name not in rounded]
        pairs = ((numpy_helper.to_array(ours[name]), numpy_helper.to_array(theirs[name])) for name in names)
        same = all(np.array_equal(one, other) for one, other in pairs)
        if not same or list(node.attribute) != list(twin.attribute):
            changed.append(node.name)
    return changed


def head_of(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The part of a graph after the features (`models.export.heads`), and the names of its inputs, from coarse to fine.

    Raises:
        ValueError: the graph has no such part.
    """
    graph = model.graph
    names = [node.input[0] for node in graph.node if node.name.rsplit("_", 1)[0] in ("pooled", "score")]
    needed, nodes = {graph.output[0].name}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output) and not set(names).intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    values = {value.name: value for value in graph.value_info}
    if not names or "image" in needed or not set(names) <= values.keys():
        raise ValueError("the graph has no head as models.export writes it")
    constants = [tensor for tensor in graph.initializer if tensor.name in needed]
    body = helper.make_graph(nodes[::-1], "head", [values[name] for name in names], list(graph.output), constants)
    return helper.make_model(body, opset_imports=model.opset_import, ir_version=model.ir_version), names


def _output(graph: PackedGraph, node: CustomNode, x: Values) -> NDArray[np.float64]:
    """The real output of one custom node alone, computed with standard operators."""
    alone = onnx.NodeProto()
    alone.CopyFrom(node.proto)
    alone.input[0] = "image"
    del alone.output[1:]  # packed signs
    kind = TensorProto.UINT8 if node.op == STEM else TensorProto.FLOAT
    body = helper.make_graph(
        [alone],
        "layer",
        [helper.make_tensor_value_info("image", kind, [None] * 4)],
        [helper.make_tensor_value_info(alone.output[0], TensorProto.FLOAT, [None] * 4)],
        [graph.constants[name] for name in dict.fromkeys(alone.input[1:]) if name],
    )
    opsets = [opset for opset in graph.model.opset_import if opset.domain in ("", DOMAIN)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=graph.model.ir_version)
    session = ort.InferenceSession(
        derive_reference(model).model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"image": x})[0], np.float64)
