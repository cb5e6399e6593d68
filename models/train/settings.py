"""What of a recipe determines a run: stored in its checkpoints, so that a changed recipe is not resumed unnoticed."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from models.train.recipe import Recipe

#: Fields that only describe a run, or name files whose content is not known here.
DESCRIPTIVE = ("name", "source", "data", "terms", "limits", "twin", "init", "teacher")

#: Key beside them in the checkpoint of a network recovered from a calibrated model: the card's sentence on that.
CALIBRATION = "calibration"


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """The fields of ``recipe`` that determine the run, as plain values (a checkpoint may hold no others)."""
    fields = {key: value for key, value in asdict(recipe).items() if key not in DESCRIPTIVE}
    plain: dict[str, Any] = json.loads(json.dumps(fields))  # phases are strings, tuples become lists
    return plain


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """Where two `settings_of` differ, for an error message: ``phases[0].lr 0.1, not 0.2``.

    Fields that only one side knows are passed over: a newer or older version of the program has them, and a field added
    later has a default that changes nothing.
    """
    # a method's options have no defaults here: one that came or went is a difference
    if isinstance(before, dict) and isinstance(now, dict) and not where.endswith("options"):
        return [
            one
            for key in before
            if key in now
            for one in differences(before[key], now[key], f"{where}.{key}" if where else key)
        ]
    if isinstance(before, list) and isinstance(now, list) and where == "phases":
        if len(before) != len(now):
            return [f"{len(before)} phases, not {len(now)}"]
        return [
            one
            for i, (theirs, ours) in enumerate(zip(before, now, strict=True))
            for one in differences(theirs, ours, f"{where}[{i}]")
        ]
    return [] if before == now else [f"{where} {before}, not {now}"]
