"""Records in a cell's folder the budget it was trained with, so that a run with another budget cannot reuse it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.ablation.grid import Budget
from models.train import checkpoint
from models.train.recipe import Recipe

FILE = "budget.json"


def claim(folder: Path, recipe: Recipe, budget: Budget, test_images: int, steps: int) -> None:
    """Record the budget in a cell's folder, or check that the run already there used the same budget.

    Older folders without such a record are checked by the network in the checkpoint and the epoch length in the log.

    Args:
        folder: the cell's folder, created if missing.
        recipe: the cell's recipe.
        budget: the budget of all cells.
        test_images: number of test images per evaluation.
        steps: steps per epoch.

    Raises:
        ValueError: the folder holds a run with another budget.
    """
    note = folder / FILE
    wanted: dict[str, Any] = {**asdict(budget), "test_images": test_images}
    if (folder / "last.pt").is_file():
        if note.is_file():
            theirs = json.loads(note.read_text())
            others = [
                f"{key} {theirs.get(key)}, not {value}" for key, value in wanted.items() if theirs.get(key) != value
            ]
        else:
            others = _contradictions(folder, recipe, steps)
        if others:
            raise ValueError(
                f"{folder} has a run of another budget ({'; '.join(others)}): use the same budget or another --out"
            )
    folder.mkdir(parents=True, exist_ok=True)
    temporary = note.with_suffix(".part")
    temporary.write_text(json.dumps(wanted, indent=1) + "\n")
    temporary.replace(note)


def _contradictions(folder: Path, recipe: Recipe, steps: int) -> list[str]:
    """Differences between the checkpoint and log in ``folder`` and those a run of ``recipe`` would write."""
    payload = checkpoint.load(folder / "last.pt")
    log = folder / "log.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    ended = max((record["epoch"] for record in records if "held_out" in record), default=0)
    longest = max((record["step"] for record in records if "step" in record), default=0)
    epochs = sum(phase.epochs for phase in recipe.phases)
    finished = payload["progress"]["phase"] >= len(recipe.phases)
    found = []
    if (width := payload["arch"]["width"]) != recipe.arch.width:
        found.append(f"width {width}, not {recipe.arch.width}")
    if longest > steps or (ended and longest != steps):  # the log always has an epoch's last step
        found.append(f"epochs of {longest} steps, not {steps}")
    if ended > epochs or (finished and ended and ended != epochs):
        found.append(f"{ended} epochs, not {epochs}")
    return found
