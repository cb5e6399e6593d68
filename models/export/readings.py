"""Logs of all evaluations on the data that results are reported on: one JSON line per reading, beside the pages.

The more often data are evaluated on, the less they are an unseen test set. `models.export` (with ``--evaluate``),
`models.export.fuse`, `models.eval.page` and `models.eval.depth_page` evaluate with
`models.export.measure.run_evaluation`, which logs here. Evaluations of classifiers are logged since 2026-12-01.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.card import Card

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "models"
LOGGED = ("delta1", "abs_rel", "top1", "top5")  # of the metrics that a task has


def commit() -> str:
    """The checked-out commit, 12 digits; ``unknown`` without git."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603  # fixed
    except (OSError, subprocess.CalledProcessError):  # a copy without history
        return "unknown"


@dataclass(frozen=True)
class Occasion:
    """One run of a program that evaluates on a data set, with any number of variants.

    Attributes:
        source: the program.
        dataset: name of the data in its results.
        folder: folder of the logs, a file per task.
        date: start time, UTC, to the minute.
    """

    source: str
    dataset: str
    folder: Path
    date: str

    def file(self, task: str) -> Path:
        """The log of a task's evaluations."""
        return self.folder / f"{task}-readings.jsonl"

    def log(self, folder: Path, variant: str, printed: dict[str, Any]) -> None:
        """Append an evaluation to the log of the model's task.

        Args:
            folder: ``<models>/<name>/<version>``.
            variant: the evaluated variant.
            printed: output of ``service evaluate --json``.
        """
        card = Card.load(folder)
        entry = {"date": self.date, "source": self.source, "commit": commit(), "dataset": self.dataset}
        entry |= {"n": printed["n"], "model": f"{card.name}@{card.version}", "sha256": card.sha256[:12]}
        entry |= {"variant": variant} | {name: round(printed[name], 4) for name in LOGGED if name in printed}
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.file(card.task).open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")


def occasion(source: str, dataset: str, folder: Path = FOLDER) -> Occasion:
    """An `Occasion` that starts now."""
    return Occasion(source, dataset, folder, datetime.now(UTC).isoformat(timespec="minutes"))


def count(path: Path, model: str) -> int:
    """The number of occasions on which a model of this name was evaluated, with any weights and version.

    For entries recorded from notes only the day is known, so ``what`` tells their occasions apart.
    """
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    own = (entry for entry in entries if entry["model"].partition("@")[0] == model)
    return len({(entry["date"], entry["source"], entry["dataset"], entry.get("what")) for entry in own})
