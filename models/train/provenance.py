"""Provenance of a run: written beside its checkpoints as ``run.json``, and copied to the model card at export."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import torch

from models.train.recipe import Recipe
from service.card import Card

FILE = "run.json"
THEN = ", then "  # between what a run was started on and what it was resumed on


def hardware() -> str:
    """CPU cores and model, and the GPU if there is one, in one line."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        name = names[0] if names else name
    text = f"{len(os.sched_getaffinity(0))} cores of {name}"
    return f"{text}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else text


def command(recipe: Recipe, accumulate: int = 1) -> str:
    """The command that repeats a run with ``accumulate`` micro-batches per step; DATA and RUNS stand for folders."""
    parts = [f"python -m models.train {recipe.name} --data DATA --out RUNS/{recipe.name}"]
    if recipe.init:
        parts.append(f"--init RUNS/{recipe.init}/best.pt")
    if recipe.teacher:
        parts.append(f"--teacher RUNS/{recipe.teacher}/best.pt")
    if recipe.soft_labels:
        parts.append("--soft-labels RUNS/teacher")
    if accumulate > 1:
        parts.append(f"--accumulate {accumulate}")
    return " ".join(parts)


def write_provenance(out: Path, recipe: Recipe, accumulate: int = 1, *, resumed: bool = False) -> None:
    """Write hardware, versions and the command to ``out/run.json``.

    If the run was ``resumed``, what it was trained on before stays, and is followed by what is different now.
    """
    facts = {
        "recipe": recipe.name,
        "command": command(recipe, accumulate),
        "hardware": hardware(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if resumed and (out / FILE).is_file():
        before = read_provenance(out / "last.pt")
        facts |= {key: _followed(before.get(key, ""), facts[key]) for key in ("hardware", "torch", "python")}
    _write(out, facts)


def _followed(before: str, now: str) -> str:
    """``now`` appended to what was recorded ``before``, unless it is the last thing recorded."""
    return before if before.split(THEN)[-1] == now else f"{before}{THEN}{now}" if before else now


def copy_provenance(card: Card, out: Path) -> None:
    """Write the provenance that a model card gives to ``out/run.json``, for a checkpoint recovered from that model."""
    training = card.training
    _write(out, {"recipe": training.recipe, "command": training.command, "hardware": training.hardware})


def _write(out: Path, facts: dict[str, str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    temporary = (out / FILE).with_suffix(".part")
    temporary.write_text(json.dumps(facts, indent=1) + "\n")
    temporary.replace(out / FILE)


def read_provenance(checkpoint: Path) -> dict[str, str]:
    """Read the provenance beside a checkpoint.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = checkpoint.parent / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a run of models.train writes it beside its checkpoints")
    facts: dict[str, str] = json.loads(path.read_text())
    return facts
