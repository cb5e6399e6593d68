"""Compares the layers that an export stores in fewer bits with the same layers in float32, each on its own.

A free run cannot tell rounding from a fault: in a 1-bit network it flips signs, and the logits of a random network of
50 layers keep a correlation of no more than 0.15 with the exact ones.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

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
