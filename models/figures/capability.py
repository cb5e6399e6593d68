"""Representational capability (paper Sec. 3.1 to 3.3, Fig. 3 and 5): the number of configurations of a feature map."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from models.arch import BiRealNet
from models.arch.bireal import BiRealBasic
from models.binarize.base import BinaryConv2d, BinaryLayer, Phase, set_phase
from models.binarize.functional import sign


def choices(channels: int, kernel: int) -> int:
    """Number of values of a sum of n = ``kernel``^2 * ``channels`` signs: n + 1, since they are 2 apart."""
    return channels * kernel**2 + 1


@dataclass(frozen=True)
class Capability:
    """Capability R = choices ** entries of one feature map.

    Attributes:
        name: name of the layer.
        entries: height times width times channels.
        sum_choices: choices per entry of the convolution's output.
        shortcut_choices: choices per entry with the real-valued shortcut added: the product over the summands.
    """

    name: str
    entries: int
    sum_choices: int
    shortcut_choices: int

    def bits(self, choices_an_entry: int) -> float:
        """log2 of R."""
        return self.entries * math.log2(choices_an_entry)


def paper_example() -> Capability:
    """The example of Sec. 3.1 and 3.2: 32 channels of 14x14, 3x3 kernels, this block and the one before."""
    each = choices(32, 3)
    return Capability("32 channels of 14x14", 14 * 14 * 32, each, each**2)


def bottleneck_entry(channels: int, expanded: int) -> tuple[int, int, int]:
    """Sec. 3.3: choices of the three sums of a bottleneck, in the order 1x1, 3x3, 1x1."""
    return choices(expanded, 1), choices(channels, 3), choices(channels, 1)


@torch.no_grad()
def layers(network: BiRealNet, x: Tensor) -> list[Capability]:
    """Capability of each block of a network of basic blocks with ``structure="bireal"``, for inputs x [N,3,H,W].

    The product restarts at a real-valued 1x1 shortcut (between stages), whose values are real anyway.
    """
    found: list[Capability] = []
    shapes: dict[nn.Module, torch.Size] = {}
    hooks = [
        m.register_forward_hook(lambda module, _inputs, output: shapes.__setitem__(module, output.shape))
        for m in network.modules()
        if isinstance(m, BinaryLayer)
    ]
    network.eval()(x)
    for hook in hooks:
        hook.remove()
    product = 1
    for number, stage in enumerate(network.stages):
        for index, block in enumerate(cast("Iterable[nn.Module]", stage)):
            assert isinstance(block, BiRealBasic)
            conv = block.body.conv
            each = choices(conv.in_channels, conv.kernel_size[0])
            product = each if block.downsample is not None or product == 1 else product * each
            _, channels, height, width = shapes[block.body]
            found.append(Capability(f"stage{number + 1}.{index}", channels * height * width, each, product))
    return found


@torch.no_grad()
def distinct_sums(network: BiRealNet, x: Tensor) -> dict[str, tuple[int, int]]:
    """Number of distinct sums of each 1-bit convolution observed on x: layer -> (distinct, possible)."""
    found: dict[str, tuple[int, int]] = {}
    hooks = []

    def count(name: str, conv: BinaryConv2d) -> None:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            sums = nn.functional.conv2d(inputs[0], sign(conv.weight), None, conv.stride, conv.padding)
            found[name] = (len(torch.unique(sums.round())), choices(conv.in_channels, conv.kernel_size[0]))

        hooks.append(conv.register_forward_hook(hook))

    for name, module in network.named_modules():
        if isinstance(module, BinaryConv2d):
            count(name, module)
    set_phase(network, Phase.BINARY)
    network.eval()(x)
    for hook in hooks:
        hook.remove()
    return found
