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
    cores = len(os.sched_getaffinity(0))
    text = f"{cores} {'core' if cores == 1 else 'cores'} of {name}"
    return f"{text}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else text


def command(recipe: Recipe, accumulate: int = 1, *, init: Path | None = None, teacher: Path | None = None) -> str:
    """The command that repeats a run; DATA and RUNS stand for folders.

    Args:
        recipe: the recipe of the run.
        accumulate: micro-batches per step.
        init: the checkpoint of the initial weights, if it is not of the recipe's ``init``; only its name is told.
        teacher: the same for the teacher.
    """
    parts = [f"python -m models.train {recipe.name} --data DATA --out RUNS/{recipe.name}"]
    for flag, given, named in (("--init", init, recipe.init), ("--teacher", teacher, recipe.teacher)):
        if given is not None or named:
            parts.append(f"{flag} {given.name if given is not None else f'RUNS/{named}/best.pt'}")
    if recipe.soft_labels:
        parts.append("--soft-labels RUNS/teacher")
    if accumulate > 1:
        parts.append(f"--accumulate {accumulate}")
    return " ".join(parts)


def write_provenance(
    out: Path,
    recipe: Recipe,
    accumulate: int = 1,
    *,
    resumed: bool = False,
    init: Path | None = None,
    teacher: Path | None = None,
) -> None:
    """Write hardware, versions and the command (see `command`) to ``out/run.json``.

    If the run was ``resumed``, the command and what it was trained on before stay; the latter is followed by what is
    different now.
    """
    facts = {
        "recipe": recipe.name,
        "command": command(recipe, accumulate, init=init, teacher=teacher),
        "hardware": hardware(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if resumed and (out / FILE).is_file():
        before = read_provenance(out / "last.pt")
        facts["command"] = before.get("command", facts["command"])
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
