"""The ONNX dialect of packed graphs: the custom operators, and access to their nodes.

A packed graph is an ordinary ONNX graph whose binary parts are nodes of the domain `bireal`. Activations between custom
operators are float32 [N, H, W, C]; "bits" are packed signs (service/backends/bits.py). The operators:

    Stem(image u8 [N,H,W,3], weight [O,K,K,3], scale [O], bias [O], mean [3]; stride, pool) -> y, bits?
    Pack(x [N,H,W,C], threshold? [C]) -> bits
    BConv(bits, weight i32 [O,KH,KW,CW], scale [O], bias [O], residual?; channels, kernel, stride) -> y, bits?
    AvgPool2(x [N,H,W,C]) -> y
    Pointwise(x [N,H,W,C], weight f32|f16|i8 [C,O], scale [O], bias [O], slope? [1]) -> y, bits?
    GlobalMean(x [N,H,W,C]) -> y [N,1,1,C]

A real-valued 1x1 convolution with 8-bit weights also rounds its input to 8 bits, with one scale per pixel; derive.py
gives the formula.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

DOMAIN = "bireal"
VERSION = 1

STEM = "Stem"
PACK = "Pack"
BCONV = "BConv"
AVG_POOL2 = "AvgPool2"
POINTWISE = "Pointwise"
GLOBAL_MEAN = "GlobalMean"
OPERATORS = (STEM, PACK, BCONV, AVG_POOL2, POINTWISE, GLOBAL_MEAN)


class GraphError(ValueError):
    """A packed graph breaks the dialect's rules; the message names the node and what was expected."""


@dataclass(frozen=True)
class CustomNode:
    """One node of the domain `bireal`.

    Attributes:
        proto: the node itself.
        layer: the node's name in reports: its own if unique, else the name of its first output.
        op: operator type, one of `OPERATORS`.
    """

    proto: onnx.NodeProto
    layer: str
    op: str

    def input(self, index: int) -> str:
        """Name of an input; empty if it is absent."""
        return self.proto.input[index] if index < len(self.proto.input) else ""

    def output(self, index: int) -> str:
        """Name of an output; empty if it is absent."""
        return self.proto.output[index] if index < len(self.proto.output) else ""

    def integer(self, name: str) -> int:
        """Value of an integer attribute.

        Raises:
            GraphError: the attribute is absent or not an integer.
        """
        for attribute in self.proto.attribute:
            if attribute.name == name and attribute.type == onnx.AttributeProto.INT:
                return int(attribute.i)
        raise GraphError(f"Node {self.layer} ({self.op}) has no integer attribute {name!r}.")


class PackedGraph:
    """Read access to a packed graph: its custom nodes and its constants.

    Args:
        model: the model; not modified.

    Attributes:
        model: the model.
        constants: tensors that are stored in the file rather than computed, by name.
        custom_nodes: nodes of the domain `bireal`, in graph order.

    Raises:
        GraphError: a node of the domain `bireal` is of an unknown type.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            # ONNX Runtime turns Constant nodes into initializers before a kernel sees them; do the same here.
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                for attribute in node.attribute:
                    if attribute.name == "value":
                        self.constants[node.output[0]] = attribute.t
        # Two nodes may share a name, or have none; outputs are unique in a valid graph.
        uses = Counter(node.name for node in model.graph.node)
        self._unique_names = {name for name, count in uses.items() if name and count == 1}
        self.custom_nodes: tuple[CustomNode, ...] = tuple(self._custom_nodes())

    def custom(self, proto: onnx.NodeProto) -> CustomNode | None:
        """Returns the custom node for a node of the graph, or None for a stock node.

        Raises:
            GraphError: the node is of the domain `bireal` but of an unknown type.
        """
        if proto.domain != DOMAIN:
            return None
        layer = proto.name if proto.name in self._unique_names else proto.output[0]
        if proto.op_type not in OPERATORS:
            raise GraphError(
                f"Node {layer} uses the unknown operator {DOMAIN}.{proto.op_type}; this version supports "
                f"{', '.join(OPERATORS)}."
            )
        return CustomNode(proto, layer, proto.op_type)

    def constant(self, node: CustomNode, index: int, what: str, shape: tuple[int | None, ...]) -> NDArray[np.generic]:
        """Returns the value of a constant input.

        Args:
            node: the node.
            index: position of the input.
            what: name of the input in error messages.
            shape: expected shape; None stands for any length.

        Raises:
            GraphError: the input is computed, absent, or has another shape.
        """
        name = node.input(index)
        if name not in self.constants:
            raise GraphError(f"Node {node.layer} ({node.op}): {what} must be a constant in the file; {name!r} is not.")
        try:
            value = numpy_helper.to_array(self.constants[name])
        except (ValueError, TypeError) as error:  # fewer bytes than the shape needs, or a type that NumPy lacks
            raise GraphError(f"Node {node.layer} ({node.op}): {what} cannot be read: {error}.") from error
        if len(value.shape) != len(shape) or any(n not in (None, m) for n, m in zip(shape, value.shape, strict=True)):
            expected = ", ".join("any" if n is None else str(n) for n in shape)
            raise GraphError(
                f"Node {node.layer} ({node.op}): {what} has the shape {list(value.shape)}, expected [{expected}]."
            )
        return value

    def _custom_nodes(self) -> Iterator[CustomNode]:
        for proto in self.model.graph.node:
            node = self.custom(proto)
            if node is not None:
                yield node


def read_model(path: Path) -> onnx.ModelProto:
    """Reads a model from its file.

    Raises:
        GraphError: the file is missing, or does not contain an ONNX graph.
    """
    try:
        model = onnx.load(path)
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:  # ValidationError: external data files
        # Clients see this message, so it must not contain the folder.
        reason = error.strerror if isinstance(error, OSError) else str(error).replace(f"{path.parent}{os.sep}", "")
        raise GraphError(f"{path.name} cannot be read as an ONNX file: {reason}.") from error
    if not model.graph.node:
        raise GraphError(f"{path.name} contains no ONNX graph; the file may be truncated.")
    return model


def default_opset(model: onnx.ModelProto) -> int:
    """Version of the standard operators that a model imports."""
    return max((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
