"""Derives the float reference from a packed graph, in stock ONNX operators.

The packed file is the only source of a binary model's weights. The reference computes the same function as the
bit-packed operator in float32, with standard operators only, so that ONNX Runtime's kernels can verify ours:

    sign          Where(x < t, -1, 1)                       (not Sign, because Sign(0) = 0)
    binary conv   Conv with weights -1 and +1, zero padding after the sign, then Mul scale, Add bias, Add residual
    stem          Cast, Sub mean, Conv, Mul scale, Add bias, MaxPool
    downsample    AveragePool(ceil_mode=1, count_include_pad=0)
    real 1x1      Conv; with 8-bit weights each pixel's values are rounded first: m = max |v| over its channels, then
                  Conv of Round(v * (127 / m)), times m / 127. Products and sums are integers of at most 2^24 for up
                  to 1032 channels (weights go down to -128), hence exact

Each Conv of signs therefore yields the integer sum, exact in float32 (|sum| <= 9 C < 2^24). An optimised session folds
Mul and Add into the Conv, as in any float network; the audit (audit.py) therefore disables optimisation.

Layout: the packed graph is NHWC, while ONNX's Conv and pooling are NCHW. Every value keeps its name in NHWC and gets a
second, NCHW form when a converted operator first needs it. A chain of converted operators thus contains no Transpose,
and the stock nodes between them read the same values as in the packed graph.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.backends import dialect
from service.backends.bits import unpack_signs, words_per_pixel
from service.backends.dialect import CustomNode, GraphError, PackedGraph

_TO_NCHW = [0, 3, 1, 2]
_TO_NHWC = [0, 2, 3, 1]
_MIN_OPSET = 13
_AXES_ARE_AN_INPUT = 18  # since this opset, ReduceMax takes its axes as an input


@dataclass(frozen=True)
class Reference:
    """A derived model.

    Attributes:
        model: the graph in stock operators, with the packed graph's inputs and outputs.
        sums: name of the tensor with each binary convolution's integer sums, by layer: float32 [N, O, OH, OW].
    """

    model: onnx.ModelProto
    sums: dict[str, str]


def derive_reference(model: onnx.ModelProto) -> Reference:
    """Rewrites a packed graph into stock operators.

    Args:
        model: the packed model; not modified.

    Returns:
        The reference and the names of its integer sums. Stock nodes are kept unchanged.

    Raises:
        GraphError: the graph breaks the dialect's rules; the message names the node.
    """
    opset = dialect.default_opset(model)
    if opset < _MIN_OPSET:
        raise GraphError(f"The graph imports opset {opset} of the standard operators; at least {_MIN_OPSET} is needed.")
    graph = PackedGraph(model)
    writer = GraphWriter(opset=opset)
    sums: dict[str, str] = {}
    for proto in model.graph.node:
        node = graph.custom(proto)
        if node is None:
            _check_stock(proto, writer)
            for name in proto.input:
                writer.nhwc(name)
            writer.nodes.append(proto)
        else:
            summed = convert(graph, node, writer)
            if summed:
                sums[node.layer] = summed
    for output in model.graph.output:
        if output.name in writer.sign_values:
            raise GraphError(f"The graph's output {output.name} holds packed bits, which the reference cannot output.")
        writer.nhwc(output.name)

    used = {name for node in writer.nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    derived = helper.make_graph(
        writer.nodes, model.graph.name, model.graph.input, model.graph.output, [*kept, *writer.initializers]
    )
    opsets = [o for o in model.opset_import if o.domain != dialect.DOMAIN]
    derived_model = helper.make_model(
        derived, ir_version=model.ir_version, opset_imports=opsets, functions=model.functions
    )
    return Reference(derived_model, sums)


@dataclass
class GraphWriter:
    """The graph being written, and the layouts in which each of its values exists so far.

    Attributes:
        opset: version of the standard operators.
        prefix: prefix of every name that this writer creates, so that several writers can fill one graph.
        nodes: the nodes, in topological order.
        initializers: the constants.
        sign_values: name of the signs that replace each value of packed bits.
    """

    opset: int
    prefix: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    sign_values: dict[str, str] = field(default_factory=dict)
    _nchw: dict[str, str] = field(default_factory=dict)
    _nhwc: dict[str, str] = field(default_factory=dict)
    _constants: set[str] = field(default_factory=set)

    def op(self, op_type: str, inputs: list[str], output: str, **attributes: int | list[int]) -> str:
        """Appends a node with one output and returns that output's full name."""
        name = self.prefix + output
        self.nodes.append(helper.make_node(op_type, inputs, [name], name, None, None, None, **attributes))
        return name

    def constant(self, name: str, value: NDArray[np.float32] | float) -> str:
        """Stores a float32 constant, once, and returns its full name."""
        full = self.prefix + name
        if full not in self._constants:
            self._constants.add(full)
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), full))
        return full

    def integers(self, name: str, value: list[int]) -> str:
        """Stores an int64 constant, once, and returns its full name."""
        full = self.prefix + name
        if full not in self._constants:
            self._constants.add(full)
            self.initializers.append(numpy_helper.from_array(np.array(value, np.int64), full))
        return full

    def nhwc(self, value: str) -> str:
        """Returns the name of a value's NHWC form and creates it if only NCHW exists; other tensors keep their name."""
        if value not in self._nhwc and value in self._nchw:
            self._nhwc[value] = self.op("Transpose", [self._nchw[value]], value, perm=_TO_NHWC)
        return self._nhwc.get(value, value)

    def nchw(self, value: str) -> str:
        """Returns the name of a value's NCHW form and creates it from the NHWC form if needed."""
        if value not in self._nchw:
            self._nhwc[value] = self.nhwc(value)  # keep it: a stock node may read it later
            self._nchw[value] = self.op("Transpose", [self._nhwc[value]], f"{value}::nchw", perm=_TO_NCHW)
        return self._nchw[value]

    def signs(self, node: CustomNode, index: int) -> str:
        """Name of the signs, float32 [N,C,H,W], that replace an input of packed bits.

        Raises:
            GraphError: no operator converted so far outputs these bits.
        """
        value = node.input(index)
        if value not in self.sign_values:
            raise GraphError(f"Node {node.layer} ({node.op}): {value!r} is not a bits output of an earlier operator.")
        return self.sign_values[value]

    def bind_nchw(self, value: str, name: str) -> None:
        """Registers an NCHW tensor of this graph as a value of the packed graph."""
        self._nchw[value] = name

    def bind_signs(self, value: str, name: str) -> None:
        """Registers an NCHW tensor of -1 and +1 as packed bits of the packed graph."""
        self.sign_values[value] = name


def convert(graph: PackedGraph, node: CustomNode, writer: GraphWriter) -> str | None:
    """Writes the stock operators that replace one custom node.

    Args:
        graph: the graph with the node's constants.
        node: the node.
        writer: receives the operators and the node's outputs.

    Returns:
        The name of the integer sums, float32 [N, O, OH, OW], of a binary convolution; None for other operators.

    Raises:
        GraphError: the node breaks the dialect's rules.
    """
    return _CONVERTERS[node.op](graph, node, writer)


def unpacked_weight(graph: PackedGraph, node: CustomNode) -> NDArray[np.float32]:
    """Weights of a binary convolution as float32 [O, C, K, K] of -1 and +1.

    Raises:
        GraphError: the stored weights do not fit the node's attributes.
    """
    channels, kernel = node.integer("channels"), node.integer("kernel")
    words = graph.constant(node, 1, "weight", (None, kernel, kernel, words_per_pixel(channels)))
    if words.dtype != np.int32:
        raise GraphError(f"Node {node.layer} ({node.op}): weight is {words.dtype}, expected int32 words of 32 signs.")
    return np.ascontiguousarray(unpack_signs(words.astype(np.int32, copy=False), channels).transpose(_TO_NCHW))


def _per_channel(
    graph: PackedGraph, node: CustomNode, index: int, what: str, channels: int | None
) -> NDArray[np.float32]:
    """Reads a constant with one number per channel, as [C, 1, 1] to broadcast over NCHW."""
    return graph.constant(node, index, what, (channels,)).astype(np.float32).reshape(-1, 1, 1)


def _affine(graph: PackedGraph, node: CustomNode, writer: GraphWriter, sums: str, first: int, channels: int) -> str:
    """Writes BatchNorm and scaling as the packed graph stores them: sums * scale + bias."""
    scale = writer.constant(f"{node.layer}::scale", _per_channel(graph, node, first, "scale", channels))
    bias = writer.constant(f"{node.layer}::bias", _per_channel(graph, node, first + 1, "bias", channels))
    scaled = writer.op("Mul", [sums, scale], f"{node.layer}::scaled")
    return writer.op("Add", [scaled, bias], f"{node.layer}::affine")


def _sign(writer: GraphWriter, x: str, threshold: str, bits: str) -> None:
    """Binds `bits` to Where(x < threshold, -1, +1): zero and NaN give +1 (paper, Eq. 1)."""
    negative = writer.op("Less", [x, threshold], f"{bits}::negative")
    minus, plus = writer.constant("sign::minus_one", -1.0), writer.constant("sign::plus_one", 1.0)
    writer.bind_signs(bits, writer.op("Where", [negative, minus, plus], f"{bits}::signs"))


def _finish(node: CustomNode, writer: GraphWriter, y: str) -> None:
    """Registers a node's outputs: the real values and, if the node outputs them, their signs."""
    writer.bind_nchw(node.output(0), y)
    if node.output(1):
        _sign(writer, y, writer.constant("sign::zero", 0.0), node.output(1))


def _stem(graph: PackedGraph, node: CustomNode, writer: GraphWriter) -> None:
    weight = graph.constant(node, 1, "weight", (None, None, None, 3))
    channels, kernel = weight.shape[0], weight.shape[1]
    if weight.shape[2] != kernel or kernel % 2 == 0:
        raise GraphError(f"Node {node.layer} (Stem): weight is {list(weight.shape)}; windows must be square and odd.")
    stride = node.integer("stride")
    # The mean is subtracted before the convolution pads, so padding equals the mean.
    mean = writer.constant(f"{node.layer}::mean", _per_channel(graph, node, 4, "mean", 3))
    pixels = writer.op("Cast", [writer.nchw(node.input(0))], f"{node.layer}::pixels", to=TensorProto.FLOAT)
    centred = writer.op("Sub", [pixels, mean], f"{node.layer}::centred")
    filters = writer.constant(f"{node.layer}::weight", weight.astype(np.float32).transpose(_TO_NCHW))
    sums = writer.op(
        "Conv",
        [centred, filters],
        f"{node.layer}::sum",
        kernel_shape=[kernel, kernel],
        strides=[stride, stride],
        pads=[kernel // 2] * 4,
    )
    y = _affine(graph, node, writer, sums, 2, channels)
    if node.integer("pool"):
        y = writer.op("MaxPool", [y], f"{node.layer}::pooled", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    _finish(node, writer, y)


def _bconv(graph: PackedGraph, node: CustomNode, writer: GraphWriter) -> str:
    signs = writer.signs(node, 0)
    weight = unpacked_weight(graph, node)
    kernel, stride = node.integer("kernel"), node.integer("stride")
    sums = writer.op(
        "Conv",
        [signs, writer.constant(f"{node.layer}::weight", weight)],
        f"{node.layer}::sum",
        kernel_shape=[kernel, kernel],
        strides=[stride, stride],
        pads=[kernel // 2] * 4,
    )
    y = _affine(graph, node, writer, sums, 2, weight.shape[0])
    if node.input(4):
        y = writer.op("Add", [y, writer.nchw(node.input(4))], f"{node.layer}::residual")
    _finish(node, writer, y)
    return sums


def _pack(graph: PackedGraph, node: CustomNode, writer: GraphWriter) -> None:
    if node.input(1):
        threshold = writer.constant(f"{node.layer}::threshold", _per_channel(graph, node, 1, "threshold", None))
    else:
        threshold = writer.constant("sign::zero", 0.0)
    _sign(writer, writer.nchw(node.input(0)), threshold, node.output(0))


def _avg_pool2(_graph: PackedGraph, node: CustomNode, writer: GraphWriter) -> None:
    y = writer.op(
        "AveragePool",
        [writer.nchw(node.input(0))],
        f"{node.layer}::pooled",
        kernel_shape=[2, 2],
        strides=[2, 2],
        ceil_mode=1,
        count_include_pad=0,
    )
    writer.bind_nchw(node.output(0), y)


def _pointwise(graph: PackedGraph, node: CustomNode, writer: GraphWriter) -> None:
    weight = graph.constant(node, 1, "weight", (None, None))
    if weight.dtype not in (np.float32, np.float16, np.int8):
        raise GraphError(f"Node {node.layer} (Pointwise): weight is {weight.dtype}, expected float32, float16 or int8.")
    layer = node.layer
    values = writer.nchw(node.input(0))
    if node.input(4):
        slope = graph.constant(node, 4, "slope", (1,)).astype(np.float32)
        limits = [writer.constant("clip::low", -1.0), writer.constant("clip::high", 1.0)]
        clipped = writer.op("Clip", [values, *limits], f"{layer}::clipped")
        outside = writer.op("Mul", [values, writer.constant(f"{layer}::slope", slope)], f"{layer}::outside")
        rest = writer.constant(f"{layer}::rest", np.float32(1) - slope)
        inside = writer.op("Mul", [clipped, rest], f"{layer}::inside")
        values = writer.op("Add", [outside, inside], f"{layer}::leaky")
    step = ""
    if weight.dtype == np.int8:
        values, step = _rounded_to_8_bits(writer, values, layer)
    filters = writer.constant(f"{layer}::weight", weight.astype(np.float32).T[:, :, None, None])
    y = writer.op("Conv", [values, filters], f"{layer}::sum", kernel_shape=[1, 1])
    if step:
        y = writer.op("Mul", [y, step], f"{layer}::stepped")
    _finish(node, writer, _affine(graph, node, writer, y, 2, weight.shape[1]))


def _rounded_to_8_bits(writer: GraphWriter, values: str, layer: str) -> tuple[str, str]:
    """Returns the names of q [N,C,H,W], integers from -127 to 127, and step [N,1,H,W]: values ~ q * step."""
    magnitudes = writer.op("Abs", [values], f"{layer}::magnitudes")
    if writer.opset < _AXES_ARE_AN_INPUT:
        largest = writer.op("ReduceMax", [magnitudes], f"{layer}::largest", axes=[1], keepdims=1)
    else:
        axes = writer.integers("axes::channels", [1])
        largest = writer.op("ReduceMax", [magnitudes, axes], f"{layer}::largest", keepdims=1)
    limit, zero = writer.constant("eight_bits::limit", 127.0), writer.constant("sign::zero", 0.0)
    too_small = writer.op("Less", [largest, writer.constant("eight_bits::smallest", 1e-30)], f"{layer}::too_small")
    divided = writer.op("Div", [largest, limit], f"{layer}::divided")
    step = writer.op("Where", [too_small, zero, divided], f"{layer}::step")
    inverse = writer.op("Div", [limit, largest], f"{layer}::inverse")
    factor = writer.op("Where", [too_small, zero, inverse], f"{layer}::factor")
    product = writer.op("Mul", [values, factor], f"{layer}::product")
    return writer.op("Round", [product], f"{layer}::q"), step  # rounds half to even, like the operator


def _global_mean(_graph: PackedGraph, node: CustomNode, writer: GraphWriter) -> None:
    y = writer.op("GlobalAveragePool", [writer.nchw(node.input(0))], f"{node.layer}::pooled")
    writer.bind_nchw(node.output(0), y)


def _check_stock(node: onnx.NodeProto, writer: GraphWriter) -> None:
    """Rejects stock nodes that read packed bits or have a subgraph; all others are kept unchanged."""
    who = f"Node {node.name or node.output[0]} ({node.op_type})"
    bits = [name for name in node.input if name in writer.sign_values]
    if bits:
        raise GraphError(f"{who} reads the packed bits {bits[0]!r} directly; only operators of {dialect.DOMAIN} can.")
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
        # A subgraph may capture any outer value by name, in a layout that this code does not track.
        raise GraphError(f"{who} has a subgraph, which is not supported.")


_CONVERTERS: dict[str, Callable[[PackedGraph, CustomNode, GraphWriter], str | None]] = {
    dialect.STEM: _stem,
    dialect.PACK: _pack,
    dialect.BCONV: _bconv,
    dialect.AVG_POOL2: _avg_pool2,
    dialect.POINTWISE: _pointwise,
    dialect.GLOBAL_MEAN: _global_mean,
}
