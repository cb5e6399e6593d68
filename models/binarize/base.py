"""Base classes of binarisation methods.

A method makes layers (`BinaryLayer`), and a structure of models.arch puts shortcuts around them. A layer holds a
binarised activation and a convolution with binary weights. It can train in every phase and write itself into a packed
graph (`BinaryLayer.export`), so no code outside the method's file depends on the method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

if TYPE_CHECKING:
    from models.export.graph import After, Stream
    from models.export.packed_ops import PackedOps


class Phase(StrEnum):
    """What the 1-bit layers compute in a phase of training (paper Sec. 3.4.3, 3.4.4, 4.1).

    The real-valued phases pre-train a network of the same structure. `BINARY_1X1` is the first step of the two-step
    scheme for bottlenecks, in which the 3x3 weights are still real.
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
    """Base of a method's activation binarisation: [N,C,H,W] float -> [N,C,H,W].

    Attributes:
        phase: current phase; in the real-valued phases the module applies the pre-training non-linearity instead.
        bases: number of binary maps that make up the output.
    """

    phase: Phase = Phase.BINARY
    bases: int = 1


class BinaryConv2d(nn.Conv2d):
    """Base of a method's convolution with binary weights: [N,C,H,W] -> [N,O,OH,OW], no bias, zero padding.

    Attributes:
        bases: number of binary kernels that approximate one real kernel.
        scales: real factors per output channel kept at inference because no BatchNorm absorbs them.
        real_multiplies: real multiplications per output that inference spends on those factors (paper Table 5).
    """

    phase: Phase = Phase.BINARY
    bases: int = 1
    scales: int = 0
    real_multiplies: int = 0

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)

    @property
    def weights_are_binary(self) -> bool:
        """False in phases that keep this layer's weights real."""
        if self.phase.real_valued:
            return False
        return not (self.phase is Phase.BINARY_1X1 and self.kernel_size != (1, 1))

    def binary_weight(self) -> Tensor:
        """Weights as used in training, [O,C,K,K]: scale times -1/+1, differentiable by the method's rule."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        weight = self.binary_weight() if self.weights_are_binary else self.weight
        return nn.functional.conv2d(x, weight, None, self.stride, self.padding)


class BinaryLayer(nn.Module):
    """One 1-bit layer: [N,C,H,W] -> [N,O,ceil(H/s),ceil(W/s)], real input and output; the caller adds shortcuts.

    Attributes:
        sign: the binarised activation.
        conv: the convolution.
        reads_plain_signs: True if the layer only uses the signs of its input at threshold 0, so that the preceding
            operator can emit them packed.
    """

    sign: BinaryActivation
    conv: BinaryConv2d
    reads_plain_signs: ClassVar[bool] = True

    def export(self, ops: PackedOps, x: Stream, after: After, hint: str) -> Stream:
        """Write the layer, in `Phase.BINARY` and eval mode, into a packed graph.

        Args:
            ops: the graph.
            x: the layer's input, [N,H,W,C].
            after: what the caller adds to the layer's output.
            hint: prefix of the node names.

        Returns:
            The sum, [N,OH,OW,O].
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Method(ABC):
    """A binarisation method; its fields are the options that `ArchConfig.options` may set.

    Attributes:
        name: name in model cards and recipes, and of the method's file.
    """

    name: ClassVar[str]

    @abstractmethod
    def layer(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> BinaryLayer:
        """Make a layer with random weights; ``kernel`` is 1 or 3, ``stride`` 1 or 2."""


def set_phase(network: nn.Module, phase: Phase) -> None:
    """Switch every binarised layer of ``network`` to ``phase``."""
    for module in network.modules():
        if isinstance(module, BinaryActivation | BinaryConv2d):
            module.phase = phase
