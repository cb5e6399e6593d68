"""Bi-Real Net's binarisation (paper Sec. 3.4): ApproxSign activations, magnitude-aware binary weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.binarize.base import BinaryActivation, BinaryConv2d, Method, Phase

LEAKY_SLOPE = 0.1  # paper Sec. 4.1: slope outside (-1, 1) of the transition from ReLU to clip


def sign(x: Tensor) -> Tensor:
    """Paper Eq. 1: -1 where ``x`` is negative, +1 elsewhere (zero included); dtype and layout of ``x``."""
    return 1.0 - 2.0 * (x < 0).to(x.dtype)


def leaky_clip(x: Tensor, slope: float = LEAKY_SLOPE) -> Tensor:
    """Clip to [-1, 1], plus ``slope`` times what was cut off (paper Sec. 4.1, "Leaky-Clip")."""
    clipped = x.clamp(-1.0, 1.0)
    return clipped + slope * (x - clipped)


class _ApproxSign(torch.autograd.Function):
    """Forward Eq. 1; backward the derivative of Eq. 4, i.e. Eq. 5: 2 - 2|x| inside (-1, 1), else 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return sign(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x: Tensor
        (x,) = ctx.saved_tensors
        derivative: Tensor = (2.0 - 2.0 * x.abs()).clamp_min_(0.0)
        return grad * derivative


class ApproxSign(BinaryActivation):
    """Activation of a 1-bit block: [N,C,H,W] -> same shape.

    In the real-valued phases it is the non-linearity of pre-training instead (Sec. 3.4.3).
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.phase is Phase.RELU:
            return F.relu(x)
        if self.phase is Phase.LEAKY_CLIP:
            return leaky_clip(x)
        if self.phase is Phase.CLIP:
            return x.clamp(-1.0, 1.0)
        signs: Tensor = _ApproxSign.apply(x)  # type: ignore[no-untyped-call]  # autograd.Function is untyped
        return signs


class MagnitudeAwareConv2d(BinaryConv2d):
    """Convolution whose weights are ``mean|W_r| * sign(W_r)`` per output channel in training (Eq. 19).

    The scale is detached: it only matches magnitudes, so that the gradient of W_r has the right size
    (Lemma 1); BatchNorm absorbs it at inference (Eq. 20). The gradient passes where |W_r| <= 1 (Eq. 8,
    whose printed mask on W_b is a misprint).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)

    def binary_weight(self) -> Tensor:
        weight = self.weight
        scale = weight.detach().abs().mean(dim=(1, 2, 3), keepdim=True)  # [O,1,1,1]
        straight_through = weight.clamp(-1.0, 1.0)
        return straight_through + (scale * sign(weight) - straight_through).detach()

    def forward(self, x: Tensor) -> Tensor:
        weight = self.binary_weight() if self.weights_are_binary else self.weight
        return F.conv2d(x, weight, None, self.stride, self.padding)


METHOD = Method(
    name="bireal",
    activation=lambda _channels: ApproxSign(),
    conv=lambda in_channels, out_channels, kernel, stride: MagnitudeAwareConv2d(
        in_channels, out_channels, kernel, stride
    ),
)
