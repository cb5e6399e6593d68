"""Bi-Real Net's binarisation (paper Sec. 3.4): ApproxSign activations, magnitude-aware binary weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from models.binarize.base import BinaryActivation, BinaryLayer, Method
from models.binarize.functional import check_gradient, nonlinearity, sign, trainable_sign
from models.binarize.layer import ScaledSignConv2d, SignConvBn

UPDATES = ("magnitude", "original")


class ApproxSign(BinaryActivation):
    """Activation of a 1-bit layer: [N,C,H,W] -> same shape, -1 and +1.

    Args:
        gradient: surrogate derivative of the sign: ``approxsign`` (Eq. 5), ``approxsign3`` (Eq. 7) or ``clip``
            (Fig. 7 (b)).
    """

    def __init__(self, gradient: str = "approxsign") -> None:
        super().__init__()
        check_gradient(gradient)
        self.gradient = gradient

    def forward(self, x: Tensor) -> Tensor:
        return nonlinearity(x, self.phase) if self.phase.real_valued else trainable_sign(x, self.gradient)


class MagnitudeAwareConv2d(ScaledSignConv2d):
    """Convolution whose weights are ``mean|W_r| * sign(W_r)`` per output channel in training (Eq. 19).

    The scale is detached: its only purpose is to give the gradient of W_r the right magnitude (Lemma 1), and BatchNorm
    absorbs it at inference (Eq. 20). The gradient passes where |W_r| <= 1 (Eq. 8; the mask on W_b printed there is a
    misprint).
    """

    def magnitude(self) -> Tensor:
        return self.weight.detach().double().abs().mean(dim=(1, 2, 3))

    def binary_weight(self) -> Tensor:
        weight = self.weight
        scale = weight.detach().abs().mean(dim=(1, 2, 3), keepdim=True)  # [O,1,1,1]
        straight_through = weight.clamp(-1.0, 1.0)
        return straight_through + (scale * sign(weight) - straight_through).detach()


class OriginalConv2d(ScaledSignConv2d):
    """Convolution whose weights are ``sign(W_r)`` in training, updated by Eq. 8: BinaryNet's rule, no scales."""

    def magnitude(self) -> Tensor:
        return torch.ones(self.out_channels, dtype=torch.float64)

    def binary_weight(self) -> Tensor:
        return trainable_sign(self.weight, "clip")


@dataclass(frozen=True)
class BiReal(Method):
    """Bi-Real Net.

    Attributes:
        gradient: surrogate derivative of the activations' sign, see `ApproxSign`.
        update: weight update, ``magnitude`` (Eq. 19) or ``original`` (Eq. 8).
    """

    name: ClassVar[str] = "bireal"
    gradient: str = "approxsign"
    update: str = "magnitude"

    def __post_init__(self) -> None:
        check_gradient(self.gradient)
        if self.update not in UPDATES:
            raise ValueError(f"unknown weight update {self.update!r}: use one of {', '.join(UPDATES)}")

    def layer(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> BinaryLayer:
        """See `Method.layer`."""
        conv_type = MagnitudeAwareConv2d if self.update == "magnitude" else OriginalConv2d
        return SignConvBn(ApproxSign(self.gradient), conv_type(in_channels, out_channels, kernel, stride))


METHOD = BiReal
