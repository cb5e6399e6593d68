"""The folder of a cell says under which budget it was trained, so that no other budget takes its result for its own."""

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
    """Note the budget in a cell's folder, or see that what was trained there is of the same.

    Folders of before there was such a note are judged by their network and by the steps of an epoch in their log.

    Args:
        folder: of the cell, made if missing.
        recipe: the cell's.
        budget: of all cells.
        test_images: that a cell is judged by.
        steps: of an epoch.

    Raises:
        ValueError: the folder has a run of another budget.
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
                f"{folder} has a run of another budget ({'; '.join(others)}): give the same one, or another --out"
            )
    folder.mkdir(parents=True, exist_ok=True)
    temporary = note.with_suffix(".part")
    temporary.write_text(json.dumps(wanted, indent=1) + "\n")
    temporary.replace(note)


def _contradictions(folder: Path, recipe: Recipe, steps: int) -> list[str]:
    """What the checkpoint and the log of ``folder`` have otherwise than a run of ``recipe`` would."""
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
    if longest > steps or (ended and longest != steps):  # an epoch's last step is in the log
        found.append(f"epochs of {longest} steps, not {steps}")
    if ended > epochs or (finished and ended and ended != epochs):
        found.append(f"{ended} epochs, not {epochs}")
    return found
