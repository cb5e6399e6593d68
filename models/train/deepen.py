"""Start a deeper network from a trained shallower one of the same kind: the function is the same, the capacity larger.

The added blocks are copies of trained ones whose last BatchNorm multiplies by 0, so the shortcut around them makes each
the identity until training changes that (ADR 70).
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from models.arch.config import ArchConfig


def can_deepen(source: ArchConfig, target: ArchConfig) -> bool:
    """Whether `deepen` takes weights of ``source`` to ``target``.

    Both must be Bi-Real nets or standard ResNets with basic blocks (18 and 34 layers), ``target`` the deeper one. Other
    networks lack a shortcut around every block, or do not end it with BatchNorm, or (bottlenecks) have two streams.
    """
    kinds = [(a.method, a.structure, a.activation, a.bottleneck, a.width) for a in (source, target)]
    shortcuts = source.standard_resnet or (source.method, source.structure) == ("bireal", "bireal")
    return kinds[0] == kinds[1] and shortcuts and not source.bottleneck and source.depth < target.depth


def deepen(state: dict[str, Tensor], source: ArchConfig, target: ArchConfig) -> dict[str, Tensor]:
    """The state dict of ``target`` that computes what ``state`` of ``source`` computes.

    The blocks added to a stage follow its own and repeat them in order, without the first, which changes the shape.

    Raises:
        ValueError: `can_deepen` is false.
    """
    if not can_deepen(source, target):
        raise ValueError(f"a {source.method} network of {source.depth} layers cannot grow to {target.depth}")
    per_block = 2 if source.binary else 1  # modules of a stage for each ResNet block
    last_bn = "body.bn" if source.binary else "convs.1.1"
    blocks: dict[tuple[int, int], dict[str, Tensor]] = defaultdict(dict)
    grown: dict[str, Tensor] = {}
    for key, value in state.items():
        grown[key] = value
        if key.startswith("stages."):
            _, in_stage, block, leaf = key.split(".", 3)
            blocks[int(in_stage), int(block)][leaf] = value
    for stage, (fewer, more) in enumerate(zip(source.blocks, target.blocks, strict=True)):
        had = fewer * per_block
        for added in range(had, more * per_block):
            origin = 1 + (added - had) % (had - 1)
            for leaf, value in blocks[stage, origin].items():
                silent = leaf in (f"{last_bn}.weight", f"{last_bn}.bias")
                grown[f"stages.{stage}.{added}.{leaf}"] = torch.zeros_like(value) if silent else value.clone()
    return grown
