"""Reads a state dict from a file saved by any training script."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from models.train import torch_file

# Keys under which scripts nest the state dict (the official code and timm: state_dict), and name prefixes of wrappers.
NESTED = ("state_dict", "model", "net", "network", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, without the prefixes added by ``DataParallel`` and ``torch.compile``.

    Only tensors and plain values are unpickled, so a checkpoint cannot run code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not hold a state dict of dense real tensors; the message says what it holds or is.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    remedy = "give the file in which the training code saved its weights, mostly .pth or .pth.tar"
    payload = torch_file.read(path, remedy, [argparse.Namespace])  # which scripts often save beside the weights
    for key in NESTED:
        if isinstance(payload, dict) and isinstance(payload.get(key), dict):
            payload = payload[key]
            break
    if not isinstance(payload, dict) or not payload:
        raise ValueError(f"{path} holds a {type(payload).__name__}, not a state dict (tensors by name)")
    others = [str(name) for name, value in payload.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(f"{path} is not a state dict: not tensors: {', '.join(others[:5])}")
    strange = [str(name) for name, value in payload.items() if not _is_plain(value)]
    if strange:
        raise ValueError(f"{path}: not dense real CPU tensors: {', '.join(strange[:5])}; convert them before saving")
    state: dict[str, Tensor] = {}
    twice: list[str] = []
    for name, value in payload.items():
        short = _without_prefixes(str(name))
        if short in state:
            twice.append(short)
        state[short] = value
    if twice:
        raise ValueError(
            f"{path} has {', '.join(twice[:5])} twice, with and without a prefix ({', '.join(PREFIXES)}): keep one"
        )
    return state


def _is_plain(value: Tensor) -> bool:
    dense = value.layout is torch.strided and not value.is_quantized
    return dense and not value.is_complex() and value.device.type == "cpu"


def _without_prefixes(name: str) -> str:
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    return name
