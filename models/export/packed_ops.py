"""Building blocks of packed graphs: custom operators on [N,H,W,C] and the standard operators between them.

Binarisation methods write their layers with these (`BinaryLayer.export`): Pack(x, threshold) packs signs, and
BConv(bits, weight, scale, bias, residual) convolves them and adds. BatchNorm and scales are passed per channel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from torch import nn

from models.binarize.functional import LEAKY_SLOPE
from models.export.fold import fold_stem
from models.export.graph import BATCH, After, Array, GraphBuilder, Shape, Stream, Tensor, halved, strided
from service.backends.bits import BORDER, pack_signs, words_per_pixel

# Largest weight magnitude of an integer stem. For int16 it is a third of the range, so that the sum of any three
# weights fits: the AVX-512 kernels then need fewer products (docs/adr/0067).
STEM_LIMITS = {"int16": 32767 // 3, "int8": 127}
STEM_PRECISIONS = (*STEM_LIMITS, "float32")
POINTWISE_PRECISIONS = ("int8", "float32")
INT8_LIMIT = 127


def pack_weight(weight: NDArray[np.floating]) -> NDArray[np.int32]:
    """[O,C,KH,KW] -> int32 [O,KH,KW,ceil(C/32)], packed as `service.backends.bits` describes."""
    return pack_signs(weight.transpose(0, 2, 3, 1) < 0)


def bits_shape(activation: Shape) -> Shape:
    """Shape of the packed signs of [N,H,W,C]: [N,H+2,W+2,ceil(C/32)], with a border of zero words."""
    batch, height, width, channels = activation
    assert isinstance(height, int) and isinstance(width, int) and isinstance(channels, int)
    return (batch, height + 2 * BORDER, width + 2 * BORDER, words_per_pixel(channels))


def rounded(weight: Array, limit: int, axes: int | tuple[int, ...]) -> tuple[Array, Array]:
    """Whole numbers from -limit to limit, and the scale of each output channel: weight ~ numbers * scale.

    Args:
        weight: weights of a convolution or of a matrix.
        limit: magnitude of each channel's largest number.
        axes: all axes but that of the output channels.

    Returns:
        The numbers in the shape of ``weight``, and the scales, [O]; 1 for a channel without weights other than 0.
    """
    scale = np.abs(weight).max(axis=axes, keepdims=True) / limit
    scale[scale == 0] = 1.0
    return np.rint(weight / scale), scale.ravel()


class PackedOps:
    """Writes building blocks into a graph; every tensor is [N,H,W,C], and "bits" are its packed signs.

    Args:
        builder: the graph.
        stem_precision: ``int16`` and ``int8`` store the first convolution as integer weights within `STEM_LIMITS` with
            a scale per channel, and its sums are exact integers. Both are int16 in the file: the operator takes its
            faster 8-bit path if all weights fit. ``float32`` stores floats.
        pointwise_precision: ``int8`` stores the real-valued 1x1 convolutions inside the network as 8-bit weights with a
            scale per channel, and the operator quantises activations to 8 bits with a scale per pixel. ``float32``
            computes in float32, with weights stored as `GraphBuilder.real_constant` does.

    Raises:
        ValueError: a precision is unknown.
    """

    nothing = After()

    def __init__(self, builder: GraphBuilder, stem_precision: str, pointwise_precision: str) -> None:
        if stem_precision not in STEM_PRECISIONS:
            raise ValueError(f"stem precision {stem_precision!r} is not one of {', '.join(STEM_PRECISIONS)}")
        if pointwise_precision not in POINTWISE_PRECISIONS:
            raise ValueError(
                f"pointwise precision {pointwise_precision!r} is not one of {', '.join(POINTWISE_PRECISIONS)}"
            )
        self._builder = builder
        self._stem_precision = stem_precision
        self._pointwise_precision = pointwise_precision

    @staticmethod
    def residual(values: Tensor) -> After:
        """Add ``values`` and nothing else."""
        return After(residual=values)

    def stem(self, image: Shape, conv_bn: nn.Sequential, *, pool: bool, bits: bool) -> Stream:
        """First convolution, BatchNorm and optional max-pool on the graph's uint8 input ``image`` [N,H,W,3]."""
        weight, bias, mean = fold_stem(conv_bn)
        conv = conv_bn[0]
        assert isinstance(conv, nn.Conv2d)
        stride = conv.stride[0]
        if self._stem_precision in STEM_LIMITS:
            numbers, scale = rounded(weight, STEM_LIMITS[self._stem_precision], axes=(1, 2, 3))
            stored: NDArray[np.generic] = numbers.astype(np.int16)
        else:
            scale = np.ones(len(bias))
            stored = weight.astype(np.float32)
        _, height, width, _ = image
        assert isinstance(height, int) and isinstance(width, int)
        sizes = [strided(strided(size, stride), 2 if pool else 1) for size in (height, width)]
        constants = [
            self._builder.constant(stored, "stem_weight"),
            self._vector(scale, "stem_scale"),
            self._vector(bias, "stem_bias"),
            self._vector(mean, "stem_mean"),
        ]
        shape: Shape = (BATCH, *sizes, len(bias))
        return self._custom("Stem", ["image", *constants], shape, "stem", bits, stride=stride, pool=int(pool))

    def pack(self, values: Tensor, hint: str, *, threshold: Array | NDArray[np.float32] | float = 0.0) -> Tensor:
        """Bits that are set where a value is below the threshold, which is one per channel or one for all."""
        inputs = [values.name]
        if np.any(np.asarray(threshold) != 0.0):
            each = np.broadcast_to(np.asarray(threshold, np.float32), (values.size(3),))
            inputs.append(self._builder.constant(each, f"{hint}_threshold"))
        return self._builder.custom("Pack", inputs, [(bits_shape(values.shape), TensorProto.INT32)], hint)[0]

    def signs(self, stream: Stream, hint: str) -> Tensor:
        """Packed signs of a stream at threshold 0: those already emitted, or from a new Pack."""
        return stream.bits if stream.bits is not None else self.pack(stream.values, hint)

    def stored(self, weight: Array, hint: str) -> str:
        """Store the packed signs of weight [O,C,K,K] and return their name, for use by several `bconv` calls."""
        return self._builder.constant(pack_weight(weight), f"{hint}_weight")

    def bconv(
        self,
        bits: Tensor,
        weight: Array,
        scale: Array,
        bias: Array | float,
        stride: int,
        after: After,
        hint: str,
        *,
        stored: str | None = None,
    ) -> Stream:
        """Binary convolution: scale * sums + bias + ``after``, [N,OH,OW,O].

        Args:
            bits: packed signs of [N,H,W,C].
            weight: [O,C,K,K]; only its signs are used (Eq. 1).
            scale: [O].
            bias: [O], or one number for all channels.
            stride: 1 or 2.
            after: what else to add.
            hint: prefix of the node names.
            stored: name of the weight, if it has been stored already.
        """
        out_channels, channels, kernel, _ = weight.shape
        shape: Shape = (BATCH, strided(bits.size(1) - 2, stride), strided(bits.size(2) - 2, stride), out_channels)
        offset = np.broadcast_to(np.asarray(bias + after.bias, np.float64), (out_channels,))
        inputs = [
            bits.name,
            stored or self.stored(weight, hint),
            self._vector(scale, f"{hint}_scale"),
            self._vector(offset, f"{hint}_bias"),
        ]
        if after.residual is not None:
            assert after.residual.shape == shape, f"{hint}: residual {after.residual.shape} for {shape}"
            inputs.append(after.residual.name)
        return self._custom("BConv", inputs, shape, hint, after.bits, channels=channels, kernel=kernel, stride=stride)

    def avg_pool2(self, x: Tensor) -> Tensor:
        """2x2 average pool with stride 2; windows that overlap the border average only the pixels inside."""
        batch, _, _, channels = x.shape
        shape: Shape = (batch, halved(x.size(1)), halved(x.size(2)), channels)
        return self._builder.custom("AvgPool2", [x.name], [(shape, TensorProto.FLOAT)], "pool")[0]

    def pointwise(self, x: Tensor, weight: Array, hint: str) -> Tensor:
        """Real 1x1 convolution with weight [O,C,1,1], no bias."""
        return self._pointwise(x, weight, 0.0, hint).values

    def clipped_pointwise(self, x: Tensor, weight: Array, bias: Array, hint: str, *, bits: bool) -> Stream:
        """Real 1x1 convolution with weight [O,C,1,1] and bias [O] on `models.binarize.functional.leaky_clip` of x."""
        return self._pointwise(x, weight, bias, hint, clip=True, bits=bits)

    def _pointwise(
        self, x: Tensor, weight: Array, bias: Array | float, hint: str, *, clip: bool = False, bits: bool = False
    ) -> Stream:
        matrix = weight[:, :, 0, 0].T
        if self._pointwise_precision == "int8":
            numbers, scale = rounded(matrix, INT8_LIMIT, axes=0)
            stored = self._builder.constant(numbers.astype(np.int8), f"{hint}_weight")
        else:
            scale = np.ones(matrix.shape[1])
            stored = self._builder.real_constant(matrix, f"{hint}_weight")
        offset = np.broadcast_to(np.asarray(bias, np.float64), scale.shape)
        inputs = [x.name, stored, self._vector(scale, f"{hint}_scale"), self._vector(offset, f"{hint}_bias")]
        if clip:
            inputs.append(self._vector(np.array([LEAKY_SLOPE]), f"{hint}_slope"))
        return self._custom("Pointwise", inputs, (*x.shape[:-1], matrix.shape[1]), hint, bits)

    def affine(self, x: Tensor, scale: Array, bias: Array, hint: str) -> Tensor:
        """Return scale * x + bias per channel: a BatchNorm that no convolution absorbs."""
        scaled = self._builder.op("Mul", [x.name, self._vector(scale, f"{hint}_scale")], x.shape)
        return self._builder.op("Add", [scaled.name, self._vector(bias, f"{hint}_bias")], x.shape, hint)

    def multiply(self, x: Tensor, factor: Tensor, hint: str) -> Tensor:
        """Multiply x [N,H,W,C] by a factor that broadcasts to it."""
        return self._builder.op("Mul", [x.name, factor.name], x.shape, hint)

    def add(self, x: Tensor, after: After, hint: str) -> Stream:
        """Add ``after`` to x with standard operators."""
        y = x
        if np.any(np.asarray(after.bias) != 0.0):
            bias = np.broadcast_to(np.asarray(after.bias, np.float64), (x.size(3),))
            y = self._builder.op("Add", [y.name, self._vector(bias, f"{hint}_bias")], x.shape)
        if after.residual is not None:
            y = self._builder.op("Add", [y.name, after.residual.name], x.shape, hint)
        return Stream(y, self.pack(y, f"{hint}_pack") if after.bits else None)

    def mean_magnitude(self, x: Tensor, kernel: int, stride: int, hint: str) -> Tensor:
        """Mean of |x| over the channels, then over each window of a convolution (zeros outside): [N,OH,OW,1]."""
        builder = self._builder
        batch, height, width, _ = x.shape
        magnitude = builder.op("Abs", [x.name], x.shape)
        mean = builder.op("ReduceMean", [magnitude.name], (batch, height, width, 1), hint, axes=[3], keepdims=1)
        if kernel == 1 and stride == 1:
            return mean
        # With one channel, [N,H,W,1] and [N,1,H,W] have the same memory layout.
        planar = self._reshape(mean, (batch, 1, height, width))
        high, wide = strided(x.size(1), stride), strided(x.size(2), stride)
        pooled = builder.op(
            "AveragePool",
            [planar.name],
            (batch, 1, high, wide),
            f"{hint}_box",
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[kernel // 2] * 4,
            count_include_pad=1,
        )
        return self._reshape(pooled, (batch, high, wide, 1))

    def _reshape(self, x: Tensor, shape: Shape) -> Tensor:
        target = self._builder.constant(np.array([0, *shape[1:]], np.int64), "shape")  # 0 keeps the batch
        return self._builder.op("Reshape", [x.name, target], shape)

    def _vector(self, value: Array, hint: str) -> str:
        return self._builder.constant(np.asarray(value, np.float32), hint)

    def _custom(
        self, op_type: str, inputs: list[str], shape: Shape, hint: str, bits: bool, **attributes: int
    ) -> Stream:
        outputs: list[tuple[Shape, int]] = [(shape, TensorProto.FLOAT)]
        if bits:
            outputs.append((bits_shape(shape), TensorProto.INT32))
        result = self._builder.custom(op_type, inputs, outputs, hint, **attributes)
        return Stream(result[0], result[1] if bits else None)
