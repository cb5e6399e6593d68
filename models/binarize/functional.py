"""Functions that binarisation methods share: the sign, its approximations for the gradient, clips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.binarize.base import Phase

LEAKY_SLOPE = 0.1  # paper Sec. 4.1: slope outside (-1, 1) of the transition from ReLU to clip


def sign(x: Tensor) -> Tensor:
    """Paper Eq. 1: -1 where ``x`` is negative, +1 elsewhere (zero included); dtype and layout of ``x``."""
    return 1.0 - 2.0 * (x < 0).to(x.dtype)


def leaky_clip(x: Tensor, slope: float = LEAKY_SLOPE) -> Tensor:
    """Clip to [-1, 1], plus ``slope`` times what was cut off (paper Sec. 4.1, "Leaky-Clip")."""
    clipped = x.clamp(-1.0, 1.0)
    return clipped + slope * (x - clipped)


def nonlinearity(x: Tensor, phase: Phase) -> Tensor:
    """What stands for the sign while a network is real-valued (paper Sec. 3.4.3): any shape -> same shape.

    Raises:
        ValueError: the phase is a binary one.
    """
    if phase is Phase.RELU:
        return F.relu(x)
    if phase is Phase.LEAKY_CLIP:
        return leaky_clip(x)
    if phase is Phase.CLIP:
        return x.clamp(-1.0, 1.0)
    raise ValueError(f"phase {phase} is binary: it has no real-valued non-linearity")


def _clip_derivative(x: Tensor) -> Tensor:
    """1 inside [-1, 1], else 0: the straight-through estimator of BinaryNet, paper Fig. 7 (b)."""
    return (x.abs() <= 1.0).to(x.dtype)


def _second_order_derivative(x: Tensor) -> Tensor:
    """Eq. 5, derivative of Eq. 4: 2 - 2|x| inside (-1, 1), else 0."""
    return (2.0 - 2.0 * x.abs()).clamp_min_(0.0)


def _third_order_derivative(x: Tensor) -> Tensor:
    """Eq. 7, derivative of Eq. 6: 3 (1 - |x|)^2 inside (-1, 1), else 0."""
    return 3.0 * (1.0 - x.abs()).clamp_min_(0.0).square()


#: Derivatives that stand for that of the sign in the backward pass, by the name that recipes use.
GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "approxsign": _second_order_derivative,
    "approxsign3": _third_order_derivative,
    "clip": _clip_derivative,
}


class _Sign(torch.autograd.Function):
    """Forward Eq. 1; backward (Eq. 3) the gradient times a derivative of `GRADIENTS`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, derivative: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.derivative = derivative
        return sign(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad * ctx.derivative(x), None


def trainable_sign(x: Tensor, gradient: str) -> Tensor:
    """The sign of ``x`` with the derivative called ``gradient`` (a key of `GRADIENTS`) in the backward pass."""
    signs: Tensor = _Sign.apply(x, GRADIENTS[gradient])  # type: ignore[no-untyped-call]  # autograd.Function is untyped
    return signs


def check_gradient(gradient: str) -> None:
    """Refuse unknown names.

    Raises:
        ValueError: the message lists the known ones.
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"unknown gradient {gradient!r}: use one of {', '.join(GRADIENTS)}")
