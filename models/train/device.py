"""Device selection: a CUDA device if there is one, else the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def best_device() -> torch.device:
    """The first CUDA device, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(network: nn.Module) -> torch.device:
    """The device of a network's weights."""
    return next(network.parameters()).device


def moved(batch: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, ...]:
    """Move a batch to a device."""
    return tuple(tensor.to(device, non_blocking=True) for tensor in batch)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` has bfloat16 instructions; a CPU without them is several times slower than in float32."""
    if device.type != "cpu":
        return True
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def bfloat16_where_fast(device: torch.device, *, wanted: bool = True) -> torch.autocast:
    """Autocast context that runs convolutions in bfloat16 if ``wanted`` and the device has instructions for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and computes_bfloat16(device))
