"""Builds the two graphs that the audit runs from a packed model; audit.py explains their purpose."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.backends import dialect
from service.backends.derive import GraphWriter, convert
from service.backends.dialect import CustomNode, PackedGraph

_COMPUTED_INPUTS = {
    dialect.STEM: (0,),
    dialect.PACK: (0,),
    dialect.BCONV: (0, 4),
    dialect.AVG_POOL2: (0,),
    dialect.POINTWISE: (0,),
    dialect.GLOBAL_MEAN: (0,),
}
_REAL = TensorProto.FLOAT
_BITS = TensorProto.INT32


@dataclass(frozen=True)
class Isolated:
    """Every custom operator on its own, converted to stock operators.

    Attributes:
        model: the graph. Its inputs are the values that the operators read, in NHWC and under their own names. Packed
            bits are replaced by their signs, float32 [N,C,H,W], under the name `signs_input(name)`.
        sums: name of the output with the integer sums of each binary convolution, by layer: float32 [N,O,OH,OW].
        values: name of the real output of each operator that has one, by layer: float32 [N,OH,OW,O].
        signs: number of channels of each packed input.
    """

    model: onnx.ModelProto
    sums: dict[str, str]
    values: dict[str, str]
    signs: dict[str, int]


def signs_input(bits: str) -> str:
    """Name of the isolated graph's input that replaces packed bits."""
    return f"{bits}::signs"


def sum_output(layer: str) -> str:
    """Name of the tapped graph's output that holds a binary convolution's integer sums, float32 [N,OH,OW,O]."""
    return f"{layer}::sum"


def computed_inputs(node: CustomNode) -> list[str]:
    """Names of a custom operator's computed (not stored) inputs."""
    return [node.input(index) for index in _COMPUTED_INPUTS[node.op] if node.input(index)]


def tapped_graph(graph: PackedGraph) -> onnx.ModelProto:
    """Returns the packed graph with every input and output of its custom operators, and integer sums, as outputs.

    Raises:
        GraphError: a weight does not fit its node.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    outputs: dict[str, int] = {}
    for node in graph.custom_nodes:
        for index, name in enumerate(node.proto.output):
            if name:
                outputs[name] = _BITS if node.op == dialect.PACK or index == 1 else _REAL
        for name in computed_inputs(node):
            outputs.setdefault(name, _REAL)  # bits are outputs of an earlier custom operator and already entered
        if node.op == dialect.BCONV:
            outputs[sum_output(node.layer)] = _REAL
            _add_sum(model, graph, node)
    add_outputs(model, outputs)
    return model


def isolated_graph(graph: PackedGraph) -> Isolated:
    """Converts each custom operator on its own; operators that only pack signs are left out.

    Raises:
        GraphError: a node breaks the dialect's rules.
    """
    nodes: list[onnx.NodeProto] = []
    constants: list[TensorProto] = []
    inputs: dict[str, int] = {}
    opset = dialect.default_opset(graph.model)
    isolated = Isolated(onnx.ModelProto(), {}, {}, {})
    for node in graph.custom_nodes:
        if node.op == dialect.PACK:
            continue
        writer = GraphWriter(opset, prefix=f"{node.layer}::isolated::")
        for name in computed_inputs(node):
            if node.op == dialect.BCONV and name == node.input(0):
                isolated.signs[name] = node.integer("channels")
                name = signs_input(name)
                writer.bind_signs(node.input(0), name)
            inputs[name] = TensorProto.UINT8 if node.op == dialect.STEM else _REAL
        sums = convert(graph, node, writer)
        if sums:
            isolated.sums[node.layer] = sums
        isolated.values[node.layer] = writer.nhwc(node.output(0))
        nodes += writer.nodes
        constants += writer.initializers

    given = [helper.make_tensor_value_info(name, kind, [None] * 4) for name, kind in inputs.items()]
    body = helper.make_graph(nodes, "isolated", given, [], constants)
    opsets = [helper.make_opsetid("", opset)]
    isolated.model.CopyFrom(helper.make_model(body, ir_version=graph.model.ir_version, opset_imports=opsets))
    add_outputs(isolated.model, dict.fromkeys([*isolated.sums.values(), *isolated.values.values()], _REAL))
    return isolated


def add_outputs(model: onnx.ModelProto, kinds: dict[str, int]) -> None:
    """Adds tensors (element types by name) to a graph's outputs, except those that are already inputs or outputs."""
    there = {value.name for value in (*model.graph.output, *model.graph.input)}
    known = {value.name: value for value in model.graph.value_info}
    for name, kind in kinds.items():
        if name not in there:
            model.graph.output.append(known.get(name) or helper.make_tensor_value_info(name, kind, None))


def _add_sum(model: onnx.ModelProto, graph: PackedGraph, node: CustomNode) -> None:
    """Adds a binary convolution of the same bits and weights that outputs its integer sums."""
    channels = graph.constant(node, 1, "weight", (None, None, None, None)).shape[0]
    names = []
    for what, value in (("ones", 1), ("zeros", 0)):
        name = f"audit::{what}{channels}"
        names.append(name)
        if all(tensor.name != name for tensor in model.graph.initializer):
            model.graph.initializer.append(numpy_helper.from_array(np.full(channels, value, np.float32), name))
    tap = helper.make_node(
        node.op,
        [node.input(0), node.input(1), *names],
        [sum_output(node.layer)],
        name=sum_output(node.layer),
        domain=dialect.DOMAIN,
    )
    tap.attribute.extend(node.proto.attribute)
    # Insert after the copied node, so that the graph stays in topological order.
    position = next(i for i, other in enumerate(model.graph.node) if other.output[:1] == node.proto.output[:1])
    model.graph.node.insert(position + 1, tap)
