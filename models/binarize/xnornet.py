"""XNOR-Net (Rastegari et al. 2016, the paper's [30]): BatchNorm -> sign -> convolution, scaled at inference too.

    y = (sign(W) * sign(x)) * alpha * K,  alpha = mean|W| per output channel,  K = mean_c|x|, averaged over the window

BatchNorm precedes the sign, so nothing absorbs the factors: inference keeps one more real number per output channel
and two more real multiplications per output (paper Table 5). The authors' own code leaves K out; ``k_map=False``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from models.binarize.base import BinaryConv2d, BinaryLayer, Method
from models.binarize.bireal import ApproxSign
from models.binarize.functional import trainable_sign
from models.export.fold import batchnorm_affine, conv_weight

if TYPE_CHECKING:
    from models.export.graph import After, Stream
    from models.export.packed_ops import PackedOps

_LARGEST = float(np.finfo(np.float32).max)


class XnorConv2d(BinaryConv2d):
    """Convolution with weights mean|W| * sign(W) per output channel; gradients also flow through the scale.

    With g the gradient of a channel's n binary weights, the gradient of W_i is the derivative of alpha * sign(W):
    alpha * g_i * [|W_i| <= 1] + sign(W_i) / n * sum_j g_j * sign(W_j). The XNOR-Net paper prints
    g_i * (1 / n + alpha * [|W_i| <= 1]), which keeps only the term j = i of that sum.
    """

    scales = 1

    def binary_weight(self) -> Tensor:
        scale = self.weight.abs().mean(dim=(1, 2, 3), keepdim=True)  # [O,1,1,1]
        return scale * trainable_sign(self.weight, "clip")


class XnorLayer(BinaryLayer):
    """BatchNorm -> sign -> convolution (times K): [N,C,H,W] -> [N,O,OH,OW].

    Args:
        in_channels: C.
        out_channels: O.
        kernel: kernel size of the convolution.
        stride: stride of the convolution.
        k_map: whether to multiply by K.
    """

    reads_plain_signs: ClassVar[bool] = False

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, *, k_map: bool) -> None:
        super().__init__()
        self.k_map = k_map
        self.norm = nn.BatchNorm2d(in_channels)
        self.sign = ApproxSign("clip")
        self.conv = XnorConv2d(in_channels, out_channels, kernel, stride)
        self.conv.real_multiplies = 2 if k_map else 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        y: Tensor = self.conv(self.sign(x))
        if self.k_map and not self.sign.phase.real_valued:
            mean = x.abs().mean(dim=1, keepdim=True)  # [N,1,H,W]
            kernel = self.conv.kernel_size[0]
            y = y * F.avg_pool2d(mean, kernel, self.conv.stride, kernel // 2)  # the average includes the zero padding
        return y

    def export(self, ops: PackedOps, x: Stream, after: After, hint: str) -> Stream:
        """Without K: Pack at BatchNorm's zeros and one BConv. With K: compute the normalised map for its magnitude."""
        weight = conv_weight(self.conv)
        alpha = np.abs(weight).mean(axis=(1, 2, 3))
        zero = np.zeros(len(alpha))
        scale, bias = batchnorm_affine(self.norm)
        stride = self.conv.stride[0]
        if not self.k_map:
            threshold, flipped = sign_threshold(scale, bias)
            # A negative BatchNorm scale inverts the channel's signs; inverting its 1-bit weights compensates.
            weight = np.where(weight < 0, -1.0, 1.0) * np.where(flipped, -1.0, 1.0)[None, :, None, None]
            bits = ops.pack(x.values, f"{hint}_pack", threshold=threshold)
            return ops.bconv(bits, weight, alpha, zero, stride, after, hint)
        normal = ops.affine(x.values, scale, bias, f"{hint}_norm")
        bits = ops.pack(normal, f"{hint}_pack")
        y = ops.bconv(bits, weight, alpha, zero, stride, ops.nothing, hint).values
        k = ops.mean_magnitude(normal, self.conv.kernel_size[0], stride, f"{hint}_k")
        return ops.add(ops.multiply(y, k, f"{hint}_scaled"), after, f"{hint}_sum")


def sign_threshold(
    scale: np.ndarray[tuple[int], np.dtype[np.float64]], bias: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float32]], np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Thresholds on x that give the signs of scale * x + bias.

    Returns:
        threshold [C] and flipped [C]: the sign is -1 where x < threshold, inverted where ``flipped``. With t = -bias /
        scale, a float32 x is less than t exactly if it is less than the smallest float32 >= t. For a negative scale
        the sign is -1 where x > t, i.e. the inverse of x < t' with t' the smallest float32 > t.
    """
    flipped = scale < 0
    zero = scale == 0
    ratio = -bias / np.where(zero, 1.0, scale)
    constant = np.where(bias < 0, _LARGEST, -_LARGEST)  # channels with scale 0 do not depend on x
    exact = np.where(zero, constant, ratio).clip(-_LARGEST, _LARGEST)
    nearest = exact.astype(np.float32)
    short = np.where(flipped, nearest <= exact, nearest < exact)
    return np.where(short, np.nextafter(nearest, np.float32(_LARGEST)), nearest).astype(np.float32), flipped


@dataclass(frozen=True)
class XnorNet(Method):
    """XNOR-Net.

    Attributes:
        k_map: scale by K, the activations' magnitudes; False matches the authors' code.
    """

    name: ClassVar[str] = "xnornet"
    k_map: bool = True

    def layer(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> BinaryLayer:
        """See `Method.layer`."""
        return XnorLayer(in_channels, out_channels, kernel, stride, k_map=self.k_map)


METHOD = XnorNet
