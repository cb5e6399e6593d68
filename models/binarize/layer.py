"""The layer used by most methods: sign -> 1-bit convolution -> BatchNorm (paper Fig. 10 (a))."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from models.binarize.base import BinaryActivation, BinaryConv2d, BinaryLayer
from models.export.fold import batchnorm_affine, conv_weight

if TYPE_CHECKING:
    from models.export.graph import After, Stream
    from models.export.packed_ops import PackedOps


class ScaledSignConv2d(BinaryConv2d):
    """Convolution whose binary weights are -1/+1 times one scale per output channel."""

    def magnitude(self) -> Tensor:
        """The scale used in training, float64 [O]."""
        raise NotImplementedError


class SignConvBn(BinaryLayer):
    """sign -> convolution -> BatchNorm, for methods whose binary weights are -1/+1 times one scale per channel.

    Args:
        sign: the activation, which binarises at threshold 0.
        conv: the convolution.
    """

    conv: ScaledSignConv2d

    def __init__(self, sign: BinaryActivation, conv: ScaledSignConv2d) -> None:
        super().__init__()
        self.sign = sign
        self.conv = conv
        self.bn = nn.BatchNorm2d(conv.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(self.sign(x)))
        return y

    def export(self, ops: PackedOps, x: Stream, after: After, hint: str) -> Stream:
        """One BConv: the training scale and BatchNorm fold into its scale and bias (paper Eq. 20)."""
        magnitude = self.conv.magnitude().numpy()
        scale, bias = batchnorm_affine(self.bn)
        signs = ops.signs(x, f"{hint}_pack")
        return ops.bconv(signs, conv_weight(self.conv), scale * magnitude, bias, self.conv.stride[0], after, hint)
