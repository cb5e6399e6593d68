"""Where a network runs: a CUDA device when there is one, else the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def best_device() -> torch.device:
    """The first CUDA device, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(network: nn.Module) -> torch.device:
    """Where a network's weights are."""
    return next(network.parameters()).device


def moved(batch: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, ...]:
    """A batch on a device."""
    return tuple(tensor.to(device, non_blocking=True) for tensor in batch)
