"""Tensor names of our networks in other code.

Official Bi-Real, 18 and 34 layers: ``layer1.0.binary_conv.weights``, stored flat (n,1). Official Bi-Real, 50 layers:
one list ``layers.N`` over all stages, 4-D weights, and an unused ``down_conv1x1`` in block 0. torchvision and timm:
``layer1.0.conv1.weight``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from models.arch import ArchConfig, build

BASIC = "official Bi-Real (basic blocks)"
BOTTLENECK = "official Bi-Real (bottlenecks)"
RESNET = "torchvision ResNet"

DEPTHS = {BASIC: (18, 34), BOTTLENECK: (50,), RESNET: (18, 34, 50, 152)}
CONVOLUTION = re.compile(r"layers?\d?\.\d.*conv\d?\.weights?")  # of a block: not the stem's, nor down_conv1x1
METHODS = {BASIC: "bireal", BOTTLENECK: "bireal", RESNET: "none"}


@dataclass(frozen=True)
class Layout:
    """The names and shapes that a checkpoint must have.

    Attributes:
        kind: `BASIC`, `BOTTLENECK` or `RESNET`.
        arch: our network.
        names: their name of each tensor -> our name.
        shapes: their name of each tensor -> its shape as stored in the checkpoint.
        unused: their names of tensors that the forward pass does not use.
    """

    kind: str
    arch: ArchConfig
    names: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    unused: frozenset[str]


def recognise(names: set[str]) -> str:
    """Identify the code that wrote a state dict with these names.

    Raises:
        ValueError: the names match no supported code.
    """
    if any(name.endswith(".binary_conv.weights") for name in names):
        return BASIC
    if any(re.fullmatch(r"layers\.\d+\.conv\d\.weight", name) for name in names):
        return BOTTLENECK
    if any(re.fullmatch(r"layer\d\.\d+\.conv\d\.weight", name) for name in names):
        return RESNET
    shown = ", ".join(sorted(names)[:5])
    raise ValueError(
        f"a state dict with names such as {shown} matches no known network: supported are the official Bi-Real code "
        "(layer1.0.binary_conv.weights, or layers.0.conv1.weight for 50 layers) and torchvision's ResNet "
        "(layer1.0.conv1.weight)"
    )


def depth_of(kind: str, names: set[str]) -> int | None:
    """The number of layers of a state dict of the code ``kind``; None if its convolutions are those of no depth."""
    theirs = {name for name in names if CONVOLUTION.fullmatch(name)}
    for depth in DEPTHS[kind]:
        if theirs == {name for name in layout_for(kind, depth, 1).names if CONVOLUTION.fullmatch(name)}:
            return depth
    return None


def layout_for(kind: str, depth: int, num_classes: int) -> Layout:
    """Names and shapes of a network with ``depth`` layers as stored by the code ``kind``.

    Args:
        kind: `BASIC`, `BOTTLENECK` or `RESNET`.
        depth: one of its `DEPTHS`.
        num_classes: number of outputs.
    """
    arch = ArchConfig(depth=depth, method=METHODS[kind], num_classes=num_classes)
    with torch.device("meta"):
        own = build(arch).state_dict()
    names: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for ours, value in own.items():
        theirs = _their_name(ours, kind, arch)
        names[theirs] = ours
        flat = theirs.endswith(".binary_conv.weights")
        shapes[theirs] = (value.numel(), 1) if flat else tuple(value.shape)
    unused = {"layers.0.down_conv1x1.weight"} if kind == BOTTLENECK else set()
    return Layout(kind, arch, names, shapes, frozenset(unused))


def _their_name(ours: str, kind: str, arch: ArchConfig) -> str:
    match = re.fullmatch(r"stages\.(\d)\.(\d+)\.(.+)", ours)
    if match is None:  # stem and classifier, whose names are the same in all of them
        return ours.replace("stem.0.", "conv1.").replace("stem.1.", "bn1.")
    stage, block, rest = match.groups()
    return _TRANSLATORS[kind](int(stage), int(block), rest, arch)


def _basic(stage: int, block: int, rest: str, _arch: ArchConfig) -> str:
    for mine, official in (
        ("body.conv.weight", "binary_conv.weights"),
        ("body.bn.", "bn1."),
        ("downsample.conv_bn.0.", "downsample.1."),
        ("downsample.conv_bn.1.", "downsample.2."),
    ):
        rest = rest.replace(mine, official)
    return f"layer{stage + 1}.{block}.{rest}"


def _bottleneck(stage: int, block: int, rest: str, arch: ArchConfig) -> str:
    number = sum(arch.blocks[:stage]) + block
    for mine, official in (
        ("reduce.0.", "conv1."),  # the real 1x1 of the first block
        ("reduce.1.", "bn1."),
        ("reduce.conv.", "conv1."),
        ("reduce.bn.", "bn1."),
        ("body.conv.", "conv2."),
        ("body.bn.", "bn2."),
        ("expand.conv.", "conv3."),
        ("expand.bn.", "bn3."),
        ("match.", "down_conv1x1."),
        ("downsample.conv_bn.0.", "downsample.1."),
        ("downsample.conv_bn.1.", "downsample.2."),
    ):
        if rest.startswith(mine):
            rest = official + rest.removeprefix(mine)
            break
    return f"layers.{number}.{rest}"


def _resnet(stage: int, block: int, rest: str, _arch: ArchConfig) -> str:
    layer = re.fullmatch(r"convs\.(\d)\.([01])\.(.+)", rest)
    if layer is not None:
        index, kind, leaf = layer.groups()
        rest = f"{'conv' if kind == '0' else 'bn'}{int(index) + 1}.{leaf}"
    return f"layer{stage + 1}.{block}.{rest}"


#: Names of tensors in a block: our stage and block, from 0, and what follows them in our name.
_TRANSLATORS: dict[str, Callable[[int, int, str, ArchConfig], str]] = {
    BASIC: _basic,
    BOTTLENECK: _bottleneck,
    RESNET: _resnet,
}
