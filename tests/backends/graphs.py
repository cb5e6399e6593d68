"""Small packed graphs with random weights, built by hand with onnx.helper.

Two kinds of weights. Ordinary ones are random reals: two correct implementations then differ by rounding, and now and
then a value within rounding of zero gets another sign, so that whole networks can be compared by statistics only. Exact
ones are coarse binary fractions, few enough of them that no sum in the network is ever rounded in float32: every
correct implementation must give equal numbers everywhere up to the head, and exact zeros are frequent.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.backends.bits import pack_signs, words_per_pixel

MEAN = np.array([123.675, 116.28, 103.53], np.float32)
EXACT_MEAN = np.array([124, 116, 104], np.float32)


@dataclass
class PackedGraphBuilder:
    """Adds one layer a call; every method returns the names of what it made.

    Real values are named as their layer, their signs `<layer>.bits`. `exact` chooses the kind of weights. Real-valued
    1x1 convolutions are `Pointwise` nodes with weights of the type `pointwise`, stock nodes without one.
    """

    seed: int
    height: int
    width: int
    exact: bool = False
    pointwise: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    values: list[onnx.ValueInfoProto] = field(default_factory=list)
    shapes: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def constant(self, name: str, value: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def normal(self, *shape: int, spread: float = 1.0) -> np.ndarray:
        return (self.rng.standard_normal(shape) * spread).astype(np.float32)

    def offsets(self, *shape: int, spread: float) -> np.ndarray:
        """Biases and thresholds: reals, or multiples of 1/16."""
        values = self.normal(*shape, spread=spread)
        return np.round(values * 16) / np.float32(16) if self.exact else values

    def _real(self, name: str, h: int, w: int, c: int) -> str:
        self.shapes[name] = (h, w, c)
        self.values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", h, w, c]))
        return name

    def _bits(self, name: str, h: int, w: int, c: int) -> str:
        words = words_per_pixel(c)
        self.values.append(helper.make_tensor_value_info(name, TensorProto.INT32, ["N", h + 2, w + 2, words]))
        return name

    def _custom(self, op: str, inputs: list[str], outputs: list[str], name: str, **attributes: int) -> None:
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, domain="bireal", **attributes))

    def stem(
        self,
        channels: int,
        *,
        kernel: int = 7,
        stride: int = 2,
        pool: int = 1,
        integer: bool = False,
        bits: bool = True,
    ) -> str:
        name = "stem"
        fan_in = kernel * kernel * 3
        if self.exact:
            weight = self.rng.integers(-2, 3, (channels, kernel, kernel, 3)).astype(np.int16 if integer else np.float32)
            scale = np.full(channels, 2.0**-8, np.float32)
        else:
            weight = self.normal(channels, kernel, kernel, 3)
            scale = self.rng.uniform(0.5, 1.5, channels).astype(np.float32) / np.float32(70 * fan_in**0.5)
        if integer and not self.exact:
            weight, scale = np.round(weight * 4096).clip(-32768, 32767).astype(np.int16), scale / np.float32(4096)
        h, w = (self.height - 1) // stride + 1, (self.width - 1) // stride + 1
        if pool:
            h, w = (h - 1) // 2 + 1, (w - 1) // 2 + 1
        outputs = [self._real(name, h, w, channels)]
        if bits:
            outputs.append(self._bits(f"{name}.bits", h, w, channels))
        inputs = [
            "image",
            self.constant(f"{name}.weight", weight),
            self.constant(f"{name}.scale", scale),
            self.constant(f"{name}.bias", self.offsets(channels, spread=0.1)),
            self.constant(f"{name}.mean", EXACT_MEAN if self.exact else MEAN),
        ]
        self._custom("Stem", inputs, outputs, name, stride=stride, pool=pool)
        return name

    def pack(self, x: str, name: str, *, threshold: bool = False) -> str:
        h, w, c = self.shapes[x]
        inputs = [x, self.constant(f"{name}.threshold", self.offsets(c, spread=0.3))] if threshold else [x]
        self._custom("Pack", inputs, [self._bits(name, h, w, c)], name)
        self.shapes[name] = (h, w, c)
        return name

    def bconv(
        self,
        x: str,
        name: str,
        out: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        residual: str = "",
        bits: bool = True,
        source: str = "",
    ) -> str:
        """Convolves the signs of `x` (tensor `<x>.bits`, or `source`)."""
        h, w, c = self.shapes[x]
        oh, ow = (h - 1) // stride + 1, (w - 1) // stride + 1
        if self.exact:
            scale = self.rng.choice([1 / 8, 1 / 16], out).astype(np.float32)
        else:
            scale = self.rng.uniform(0.3, 1.0, out).astype(np.float32) / np.float32(kernel * c**0.5)
        inputs = [
            source or f"{x}.bits",
            self.constant(f"{name}.weight", pack_signs(self.rng.random((out, kernel, kernel, c)) < 0.5)),
            self.constant(f"{name}.scale", scale),
            self.constant(f"{name}.bias", self.offsets(out, spread=0.1)),
        ] + ([residual] if residual else [])
        outputs = [self._real(name, oh, ow, out)]
        if bits:
            outputs.append(self._bits(f"{name}.bits", oh, ow, out))
        self._custom("BConv", inputs, outputs, name, channels=c, kernel=kernel, stride=stride)
        return name

    def avg_pool2(self, x: str, name: str) -> str:
        h, w, c = self.shapes[x]
        self._custom("AvgPool2", [x], [self._real(name, (h + 1) // 2, (w + 1) // 2, c)], name)
        return name

    def real1x1(self, x: str, name: str, out: int, *, slope: float | None = None, bits: bool = False) -> str:
        h, w, c = self.shapes[x]
        values = self.normal(c, out, spread=c**-0.5)
        if self.exact:  # two channels of the input, added or subtracted
            values = np.zeros((c, out), np.float32)
            for column in values.T:
                column[self.rng.choice(c, min(c, 2), replace=False)] = self.rng.choice([-1, 1], min(c, 2))
        if not self.pointwise:
            weight = self.constant(f"{name}.weight", values)
            self.nodes.append(helper.make_node("MatMul", [x, weight], [name], name=name))
            return self._real(name, h, w, out)
        scale, bias = np.ones(out, np.float32), self.offsets(out, spread=0.1)
        if self.pointwise == "int8":
            scale = np.abs(values).max(axis=0) / np.float32(127)
            values = np.rint(values / scale)
        inputs = [
            x,
            self.constant(f"{name}.weight", values.astype(self.pointwise)),
            self.constant(f"{name}.scale", scale),
            self.constant(f"{name}.bias", bias),
        ] + ([self.constant(f"{name}.slope", np.array([slope], np.float32))] if slope is not None else [])
        outputs = [self._real(name, h, w, out)] + ([self._bits(f"{name}.bits", h, w, out)] if bits else [])
        self._custom("Pointwise", inputs, outputs, name)
        return name

    def global_mean(self, x: str, name: str) -> str:
        self._custom("GlobalMean", [x], [self._real(name, 1, 1, self.shapes[x][2])], name)
        return name

    def stock(self, op: str, inputs: list[str], name: str, **attributes: object) -> str:
        """A stock node that keeps the shape of its first input."""
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return self._real(name, *self.shapes[inputs[0]])

    def classifier(self, x: str, classes: int) -> onnx.ModelProto:
        """ReduceMean and Gemm, the latter's weights stored as float16."""
        c = self.shapes[x][2]
        axes = self.constant("axes", np.array([1, 2], np.int64))
        weight = self.constant("fc.weight.f16", self.normal(c, classes, spread=c**-0.5).astype(np.float16))
        bias = self.constant("fc.bias", self.normal(classes, spread=0.01))
        self.nodes += [
            helper.make_node("ReduceMean", [x, axes], ["mean"], name="mean", keepdims=0),
            helper.make_node("Cast", [weight], ["fc.weight"], name="fc.weight", to=TensorProto.FLOAT),
            helper.make_node("Gemm", ["mean", "fc.weight", bias], ["logits"], name="fc"),
        ]
        return self._model(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes]))

    def depth_head(self, x: str) -> onnx.ModelProto:
        """A one-channel score map, scaled bilinearly to the image's size, and a depth between 0.9 and 20 [N,H,W]."""
        h, w, c = self.shapes[x]
        weight = self.constant("score.weight", self.normal(c, 1, spread=0.1 * c**-0.5))
        floor = self.constant("disparity.floor", np.float32(0.05))
        factors = np.array([1, -(-self.height // h), -(-self.width // w), 1], np.float32)
        scales = self.constant("scales", factors)
        ranges = [np.array(v, np.int64) for v in ([0, 0], [self.height, self.width], [1, 2])]
        crop = [self.constant(n, v) for n, v in zip(("crop.from", "crop.to", "crop.axes"), ranges, strict=True)]
        channel = self.constant("channel", np.array([3], np.int64))
        self.nodes += [
            helper.make_node("MatMul", [x, weight], ["score"], name="score"),
            helper.make_node("Resize", ["score", "", scales], ["up"], name="up", mode="linear"),
            helper.make_node("Slice", ["up", *crop], ["cropped"], name="cropped"),
            helper.make_node("Squeeze", ["cropped", channel], ["flat"], name="flat"),
            helper.make_node("Sigmoid", ["flat"], ["squashed"], name="squashed"),
            helper.make_node("Add", ["squashed", floor], ["disparity"], name="disparity"),
            helper.make_node("Reciprocal", ["disparity"], ["depth"], name="depth"),
        ]
        return self._model(helper.make_tensor_value_info("depth", TensorProto.FLOAT, ["N", self.height, self.width]))

    def _model(self, output: onnx.ValueInfoProto) -> onnx.ModelProto:
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", self.height, self.width, 3])
        graph = helper.make_graph(self.nodes, "packed", [image], [output], self.initializers, value_info=self.values)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("bireal", 1)]
        return helper.make_model(graph, ir_version=10, opset_imports=opsets)


def bireal18_like(
    seed: int,
    *,
    size: tuple[int, int] = (64, 64),
    widths: tuple[int, ...] = (32, 64, 96, 128),
    blocks: int = 2,
    classes: int = 10,
    integer_stem: bool = False,
    exact: bool = False,
) -> onnx.ModelProto:
    """Stem, then stages of 3x3 binary convolutions each with its own shortcut; a real 1x1 where a stage begins."""
    g = PackedGraphBuilder(seed, *size, exact=exact)
    x = g.stem(widths[0], integer=integer_stem)
    for stage, width in enumerate(widths):
        for block in range(2 * blocks):
            name = f"layer{stage + 1}.{block}"
            shortcut, stride = x, 1
            if stage and block == 0:
                shortcut = g.real1x1(g.avg_pool2(x, f"{name}.pool"), f"{name}.down", width)
                stride = 2
            x = g.bconv(x, name, width, stride=stride, residual=shortcut)
    return g.classifier(x, classes)


def bottleneck_like(
    seed: int,
    *,
    size: tuple[int, int] = (40, 56),
    width: int = 16,
    stages: int = 3,
    depth: bool = True,
    exact: bool = False,
    pointwise: str = "",
) -> onnx.ModelProto:
    """The two-stream bottleneck chain: x1 of C/4 channels and x2 of C channels cross the blocks."""
    g = PackedGraphBuilder(seed, *size, exact=exact, pointwise=pointwise)
    x2 = g.stem(4 * width)
    # The first block's x1 comes from x2 by a leaky clip and a real 1x1, as the official code has it.
    if pointwise:
        o1 = g.real1x1(x2, "first", width, slope=0.125, bits=True)
    else:
        zero, one = g.constant("clip.low", np.float32(-1.0)), g.constant("clip.high", np.float32(1.0))
        leaky = g.stock("LeakyRelu", [g.stock("Clip", [x2, zero, one], "clip")], "leaky", alpha=0.125)
        o1 = g.real1x1(leaky, "first", width)
        g.pack(o1, "first.bits")
    x1 = o1
    for stage in range(stages):
        mid = width * 2**stage
        for block in range(2):
            name = f"stage{stage + 1}.{block}"
            stride = 2 if stage and block == 0 else 1
            if not (stage == 0 and block == 0):
                if stride == 2:
                    x1 = g.real1x1(x1, f"{name}.match", mid)
                o1 = g.bconv(x2, f"{name}.reduce", mid, kernel=1, residual=x1)
            shortcut1, shortcut2 = o1, x2
            if stride == 2:
                shortcut1 = g.avg_pool2(o1, f"{name}.pool1")
                shortcut2 = g.real1x1(g.avg_pool2(x2, f"{name}.pool2"), f"{name}.down", 4 * mid)
            o2 = g.bconv(o1, f"{name}.conv3x3", mid, stride=stride, residual=shortcut1)
            x2 = g.bconv(o2, f"{name}.expand", 4 * mid, kernel=1, residual=shortcut2)
            x1 = o2
    if pointwise:
        x2 = g.real1x1(x2 if depth else g.global_mean(x2, "mean.pixels"), "last", 32)
    return g.depth_head(x2) if depth else g.classifier(x2, 10)
