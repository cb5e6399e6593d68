"""What every binarisation method provides: a sign for activations and a convolution with binary weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor, nn


class Phase(StrEnum):
    """What the "1-bit" layers compute during a phase of training (paper Sec. 3.4.3, 3.4.4, 4.1).

    The real-valued phases pre-train the network of the same structure; `BINARY_1X1` is the first step of
    the two-step scheme for bottlenecks (3x3 weights still real).
    """

    RELU = "relu"
    LEAKY_CLIP = "leaky_clip"
    CLIP = "clip"
    BINARY_1X1 = "binary_1x1"
    BINARY = "binary"

    @property
    def real_valued(self) -> bool:
        """True if neither weights nor activations are binary in this phase."""
        return self in (Phase.RELU, Phase.LEAKY_CLIP, Phase.CLIP)


class BinaryActivation(nn.Module):
    """Base of a method's activation binarisation: [N,C,H,W] float -> [N,C,H,W] of -1 and +1."""

    phase: Phase = Phase.BINARY


class BinaryConv2d(nn.Conv2d):
    """Base of a method's convolution with binary weights: [N,C,H,W] -> [N,O,OH,OW], no bias, zero padding."""

    phase: Phase = Phase.BINARY

    @property
    def weights_are_binary(self) -> bool:
        """False while the phase keeps this layer's weights real."""
        if self.phase.real_valued:
            return False
        return not (self.phase is Phase.BINARY_1X1 and self.kernel_size != (1, 1))

    def binary_weight(self) -> Tensor:
        """Weights as used in training, [O,C,K,K]: scale times -1/+1, differentiable by the method's rule."""
        raise NotImplementedError


@dataclass(frozen=True)
class Method:
    """A binarisation method.

    Attributes:
        name: as in model cards and recipes.
        activation: channels -> module that binarises activations.
        conv: (in channels, out channels, kernel, stride) -> convolution with binary weights.
    """

    name: str
    activation: Callable[[int], BinaryActivation]
    conv: Callable[[int, int, int, int], BinaryConv2d]


def set_phase(network: nn.Module, phase: Phase) -> None:
    """Switch every binarised layer of ``network`` to ``phase``."""
    for module in network.modules():
        if isinstance(module, BinaryActivation | BinaryConv2d):
            module.phase = phase
