"""Input normalisation of all networks: ImageNet's channel statistics, in units of 0..255."""

from __future__ import annotations

import torch
from torch import Tensor

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def normalise(images: Tensor) -> Tensor:
    """[N,3,H,W] in 0..255 (any dtype) -> float32, channels-last, zero mean and unit variance on ImageNet."""
    mean = torch.tensor(MEAN).view(1, 3, 1, 1)
    std = torch.tensor(STD).view(1, 3, 1, 1)
    x = (images.float() - mean.to(images.device)) / std.to(images.device)
    return x.contiguous(memory_format=torch.channels_last)
