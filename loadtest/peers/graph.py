"""Graph surgery that gives the peers their best case.

A servable graph takes uint8 [N,H,W,3] and normalises inside, which costs a float runtime a few percent. For the peers
this front is split off and run once, outside the timing, and they take float [N,3,H,W]. The reference derived from a
packed graph has standard NHWC nodes between NCHW nodes. For a peer that runs binary networks they are converted to
NCHW, so that no Transpose remains between layers. It also emulates the rounding of our 8-bit 1x1 convolutions, which
such a peer need not do.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.backends.dialect import POINTWISE

FLOAT_INPUT = "peer_input"

_FRONT = {"Cast", "Transpose", "Sub", "Div", "Mul", "Add"}
_ELEMENTWISE = {"Clip", "Mul", "Add", "Sub", "Relu", "LeakyRelu", "Sigmoid"}
_TO_NHWC = [0, 2, 3, 1]
_TO_NCHW = [0, 3, 1, 2]


def widen_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replaces float16 initialisers followed by a Cast with float32 ones, as ONNX Runtime does when it loads a graph.

    Other tools (quantisation, OpenVINO's converter) would not recognise them as weights.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    stored = {tensor.name: tensor for tensor in result.graph.initializer}
    nodes = []
    for node in result.graph.node:
        if node.op_type == "Cast" and node.input[0] in stored and node.attribute[0].i == TensorProto.FLOAT:
            value = numpy_helper.to_array(stored[node.input[0]]).astype(np.float32)
            result.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        else:
            nodes.append(node)
    _replace_nodes(result, nodes)
    return result


def without_rounding(packed: onnx.ModelProto) -> onnx.ModelProto:
    """A packed graph whose real-valued 1x1 convolutions are in float32, with the same weights.

    With 8-bit weights they round their input, too. The reference must emulate this, by a maximum and a rounding of
    every pixel. That is our format's cost, not a float runtime's.
    """
    result = onnx.ModelProto()
    result.CopyFrom(packed)
    weights = {node.input[1] for node in result.graph.node if node.op_type == POINTWISE}
    for tensor in result.graph.initializer:
        if tensor.name in weights and tensor.data_type == TensorProto.INT8:
            value = numpy_helper.to_array(tensor).astype(np.float32)  # the node's scale stays as it is
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return result


def split_front(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Splits a graph after the conversion and normalisation of its input.

    Args:
        model: a graph with input uint8 [N,H,W,3], followed by the front: casts, transposes and arithmetic with
            constants.

    Returns:
        (front, body): the front's only output, float, is the body's only input.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    front: list[onnx.NodeProto] = []
    value = graph.input[0].name
    while True:
        readers = [node for node in graph.node if value in node.input]
        if len(readers) != 1 or readers[0].op_type not in _FRONT:
            break
        if any(name != value and name not in constants for name in readers[0].input):
            break
        front.append(readers[0])
        value = readers[0].output[0]
    done = {node.output[0] for node in front}
    rest = []
    for original in graph.node:
        if original.output[0] in done:
            continue
        node = onnx.NodeProto()
        node.CopyFrom(original)
        for index, name in enumerate(node.input):
            if name == value:
                node.input[index] = FLOAT_INPUT
        rest.append(node)
    renamed = [*front, helper.make_node("Identity", [value], [FLOAT_INPUT], name="front_out")]
    unknown = helper.make_tensor_value_info(FLOAT_INPUT, TensorProto.FLOAT, None)
    front_model = onnx.shape_inference.infer_shapes(_submodel(model, renamed, list(graph.input), [unknown]))
    joint = front_model.graph.output[0]
    return front_model, _submodel(model, rest, [joint], list(graph.output))


def channels_first(model: onnx.ModelProto) -> onnx.ModelProto:
    """Converts standard NHWC nodes between Transposes to NCHW: MatMul to a 1x1 Conv, means and elementwise nodes.

    Other nodes keep their layout, with a Transpose before them.
    """
    writer = _PlanarWriter(model)
    for node in model.graph.node:
        writer.add(node)
    return writer.finish()


class _PlanarWriter:
    """Rewrites a graph node by node, and keeps track of the NHWC values that exist in NCHW."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._planar: dict[str, str] = {}  # NHWC value -> its NCHW form
        self._same: dict[str, str] = {}  # value -> another name for it
        self._nodes: list[onnx.NodeProto] = []
        self._stored: list[TensorProto] = []

    def add(self, original: onnx.NodeProto) -> None:
        """Writes the replacement of a node; NHWC forms of values are added by `finish`."""
        node = onnx.NodeProto()
        node.CopyFrom(original)
        for index, name in enumerate(node.input):
            node.input[index] = self._same.get(name, name)
        if not (self._transpose(node) or self._reduction(node) or self._elementwise(node)):
            self._nodes.append(node)

    def finish(self) -> onnx.ModelProto:
        """The rewritten graph, with a Transpose for every NHWC value that is still used, before its first use."""
        written: set[str] = set()
        ordered: list[onnx.NodeProto] = []

        def need(name: str) -> None:
            if name in self._planar and name not in written:
                written.add(name)
                form = self._planar[name]
                ordered.append(helper.make_node("Transpose", [form], [name], name=f"{name}::nhwc", perm=_TO_NHWC))

        for node in self._nodes:
            for name in node.input:
                need(name)
            ordered.append(node)
        for value in self._model.graph.output:
            need(value.name)
        result = onnx.ModelProto()
        result.CopyFrom(self._model)
        result.graph.initializer.extend(self._stored)
        del result.graph.value_info[:]
        _replace_nodes(result, ordered)
        return result

    def _transpose(self, node: onnx.NodeProto) -> bool:
        """Removes pairs of Transposes that cancel out."""
        perm = list(node.attribute[0].ints) if node.op_type == "Transpose" else []
        if perm == _TO_NHWC:
            self._planar[node.output[0]] = node.input[0]
            return True
        if perm == _TO_NCHW and node.input[0] in self._planar:
            self._same[node.output[0]] = self._planar[node.input[0]]
            return True
        return False

    def _reduction(self, node: onnx.NodeProto) -> bool:
        """Rewrites a MatMul over channels to a 1x1 Conv, and the axes of a mean over rows and columns."""
        output = node.output[0]
        if node.input[0] not in self._planar:
            return False
        x = self._planar[node.input[0]]
        if node.op_type == "MatMul" and node.input[1] in self._constants:
            kernel = self._constant(f"{output}::kernel", self._constants[node.input[1]].T[:, :, None, None])
            self._planar[output] = f"{output}::nchw"
            conv = helper.make_node("Conv", [x, kernel], [self._planar[output]], self._planar[output])
            conv.attribute.append(helper.make_attribute("kernel_shape", [1, 1]))
            self._nodes.append(conv)
            return True
        if node.op_type == "ReduceMean" and _axes(node, self._constants) == [1, 2]:
            mean = helper.make_node("ReduceMean", [x], [output], output, axes=[2, 3], keepdims=0)
            if len(node.input) > 1:  # axes are an input from version 18 of the standard operators on
                del mean.attribute[0]
                mean.input.append(self._constant(f"{output}::axes", np.array([2, 3], np.int64)))
            self._nodes.append(mean)
            return True
        return False

    def _elementwise(self, node: onnx.NodeProto) -> bool:
        """Rewrites an elementwise node whose computed inputs all exist in NCHW."""
        if node.op_type not in _ELEMENTWISE or not any(name in self._planar for name in node.input):
            return False
        forms = []
        for name in node.input:
            stored = self._constants.get(name)
            if stored is not None and stored.ndim == 1 and stored.size > 1:  # one number a channel
                forms.append(self._constant(f"{node.output[0]}::{name}", stored.reshape(-1, 1, 1)))
            elif name in self._planar or not name or (stored is not None and stored.ndim <= 1):
                forms.append(self._planar.get(name, name))
            else:
                return False
        output = node.output[0]
        self._planar[output] = f"{output}::nchw"
        del node.input[:], node.output[:]
        node.input.extend(forms)
        node.output.append(self._planar[output])
        self._nodes.append(node)
        return True

    def _constant(self, name: str, value: NDArray[np.generic]) -> str:
        self._stored.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name


def _axes(node: onnx.NodeProto, constants: dict[str, NDArray[np.generic]]) -> list[int]:
    """Axes of a ReduceMean without keepdims, given as an attribute or as an input; empty for other nodes."""
    attributes = {a.name: a for a in node.attribute}
    if "keepdims" not in attributes or attributes["keepdims"].i != 0:
        return []
    if len(node.input) > 1:
        return [int(axis) for axis in constants.get(node.input[1], np.zeros(0))]
    return list(attributes["axes"].ints) if "axes" in attributes else []


def _replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Replaces a graph's nodes and drops initialisers that are no longer used."""
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)


def _submodel(
    model: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    made = {name for node in nodes for name in node.output}
    values = [value for value in model.graph.value_info if value.name in made]
    graph = helper.make_graph(nodes, model.graph.name, inputs, outputs, kept, value_info=values)
    return helper.make_model(graph, ir_version=model.ir_version, opset_imports=list(model.opset_import))
