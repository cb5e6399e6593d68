"""The results file of the grid, which several processes may write to at once."""

from __future__ import annotations

import contextlib
import fcntl
import json
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from models.ablation.grid import Budget, Cell
from models.export.readings import ROOT
from models.train.provenance import hardware


class Results:
    """The results file: the budget, the environment and one record per cell.

    Args:
        path: the file, created with the first record.
        budget: the budget of all cells.
        test_images: number of test images per evaluation.

    Raises:
        ValueError: the file holds results for another budget or number of test images.
    """

    def __init__(self, path: Path, budget: Budget, test_images: int) -> None:
        self.path = path
        self._new: dict[str, Any] = {"budget": asdict(budget), "test_images": test_images, "cells": {}}
        stored = self.content
        for name, value in (("budget", asdict(budget)), ("test_images", test_images)):
            if stored[name] != value:
                raise ValueError(
                    f"{path} has results of another {name.replace('_', ' ')}, {stored[name]}: "
                    "use the same values or another --results, or move the file away"
                )

    @property
    def content(self) -> dict[str, Any]:
        """The current content of the file."""
        stored: dict[str, Any] = json.loads(self.path.read_text()) if self.path.is_file() else self._new
        return stored

    def __contains__(self, cell: Cell) -> bool:
        return cell.key in self.content["cells"]

    def add(self, cell: Cell, record: dict[str, Any]) -> None:
        """Store a cell's record atomically, with the commit it was computed at, keeping what other processes stored."""
        with locked(self.path.with_suffix(".lock"), wait=True):
            content = self.content
            content["cells"][cell.key] = {"commit": commit(), **record}
            content |= {"hardware": hardware(), "torch": torch.__version__, "python": platform.python_version()}
            content["commit"] = commit()  # of the last cell: older records have none of their own
            temporary = self.path.with_suffix(".part")
            temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
            temporary.replace(self.path)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a file lock, which the system releases if the process dies; yields whether it was acquired."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def commit() -> str:
    """Short hash of the project's commit, wherever the command runs; empty without git."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # fixed arguments
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
