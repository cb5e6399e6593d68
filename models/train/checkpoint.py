"""Checkpoints: what a run needs to go on exactly where it stopped, and what export needs to know."""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from models.arch import ArchConfig, build
from models.arch.bireal import BiRealNet
from models.arch.depth import DepthNet
from models.arch.resnet import ResNet

#: What PyTorch raises for a file that is none of its own, by how far it got: the old format is read with `struct`, and
#: bytes that happen to be opcodes of a pickle ask its unpickler for what is not there (``hello world``: KeyError).
NO_CHECKPOINT = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AssertionError,
    AttributeError,
    OSError,
)


@dataclass
class Progress:
    """Position of a run: the next step to take, and what has been spent.

    Attributes:
        phase: index into the recipe's phases.
        epoch: epoch within the phase.
        step: step within the epoch.
        wall_s: training time so far in seconds, over all resumptions.
        best: best figure on the held-out part so far.
        metrics: the last figures on the held-out part.
        accumulate: micro-batches a step.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    wall_s: float = 0.0
    best: float = float("-inf")
    metrics: dict[str, float] = field(default_factory=dict)
    accumulate: int = 1


def save(
    path: Path, network: torch.nn.Module, arch: ArchConfig, recipe: str, progress: Progress, optimizer: Any = None
) -> None:
    """Write a checkpoint atomically (a stopped run never leaves half a file)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    payload = {
        "arch": asdict(arch),
        "recipe": recipe,
        "network": network.state_dict(),
        "progress": asdict(progress),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
    }
    temporary = path.with_suffix(".part")
    torch.save(payload, temporary)
    temporary.replace(path)


def first_line(error: Exception) -> str:
    """The first line of an error: PyTorch's go on for a screen about what else might be tried.

    Its advice on files with objects in them, to let them run code, is left out for what the file holds.
    """
    text = str(error).strip() or type(error).__name__
    if text.startswith("Weights only load failed"):
        found = re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", text)
        return f"it holds {'an object of ' + found[1] if found else 'more'} beside tensors and plain values"
    return text.splitlines()[0]


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint's payload (tensors on the CPU).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not one of our checkpoints.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: train one with `python -m models.train RECIPE`")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except NO_CHECKPOINT as error:
        raise ValueError(f"{path} is damaged, or no checkpoint of models.train ({first_line(error)})") from error
    if not isinstance(payload, dict) or not {"arch", "network", "progress"} <= payload.keys():
        raise ValueError(f"{path} is not a checkpoint of models.train (keys arch, network, progress expected)")
    return payload


def check_unused(out: Path) -> None:
    """See that a new run in ``out`` would not write among the files of another, whose best.pt would pass for its own.

    Raises:
        ValueError: there is a checkpoint.
    """
    for name in ("last.pt", "best.pt"):
        if (out / name).exists():
            raise ValueError(f"{out} has {name} of a run: go on with it by --resume, or give another --out")


def load_resumable(path: Path, recipe: str, accumulate: int) -> dict[str, Any]:
    """`load` of a checkpoint that a run of ``recipe`` with ``accumulate`` micro-batches a step is to go on from.

    Raises:
        FileNotFoundError, ValueError: see `load`.
        ValueError: the checkpoint is of another recipe, or of another number of micro-batches.
    """
    payload = load(path)
    theirs = payload.get("recipe")
    if theirs != recipe:
        raise ValueError(f"{path} is of recipe {theirs}, not of {recipe}: give another --out, or resume {theirs}")
    before = payload["progress"].get("accumulate", 1)
    if before != accumulate:
        raise ValueError(
            f"{path} was made with --accumulate {before}, not {accumulate}: give --accumulate {before}, "
            "without which BatchNorm's statistics would be of other micro-batches"
        )
    return payload


def load_network(path: Path) -> BiRealNet | ResNet | DepthNet:
    """Rebuild the network of a checkpoint, in eval mode."""
    payload = load(path)
    config = ArchConfig(**payload["arch"])
    network = build(config)
    network.load_state_dict(payload["network"])
    network.eval()
    return network
