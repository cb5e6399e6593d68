"""Functions shared by the binarisation methods: the sign, its surrogate derivatives, and clips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.binarize.base import Phase

LEAKY_SLOPE = 0.1  # paper Sec. 4.1: slope of the leaky clip outside (-1, 1)


def sign(x: Tensor) -> Tensor:
    """Paper Eq. 1: -1 where ``x`` is negative, else +1 (also for zero); keeps the dtype and layout of ``x``."""
    return 1.0 - 2.0 * (x < 0).to(x.dtype)


def leaky_clip(x: Tensor, slope: float = LEAKY_SLOPE) -> Tensor:
    """Clip to [-1, 1], plus ``slope`` times what was cut off (paper Sec. 4.1, "Leaky-Clip")."""
    clipped = x.clamp(-1.0, 1.0)
    return clipped + slope * (x - clipped)


def nonlinearity(x: Tensor, phase: Phase) -> Tensor:
    """The non-linearity that replaces the sign in a real-valued phase (paper Sec. 3.4.3): any shape -> same shape.

    Raises:
        ValueError: the phase is binary.
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


#: Surrogate derivatives of the sign for the backward pass, by their names in recipes.
GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "approxsign": _second_order_derivative,
    "approxsign3": _third_order_derivative,
    "clip": _clip_derivative,
}


class _Sign(torch.autograd.Function):
    """Forward: Eq. 1. Backward (Eq. 3): the gradient times a surrogate derivative from `GRADIENTS`."""

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
    """The sign of ``x``, with the surrogate derivative ``gradient`` (a key of `GRADIENTS`) in the backward pass."""
    signs: Tensor = _Sign.apply(x, GRADIENTS[gradient])  # type: ignore[no-untyped-call]  # autograd.Function is untyped
    return signs


def check_gradient(gradient: str) -> None:
    """Check that ``gradient`` is a key of `GRADIENTS`.

    Raises:
        ValueError: it is not; the message lists the valid names.
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"unknown gradient {gradient!r}: use one of {', '.join(GRADIENTS)}")
