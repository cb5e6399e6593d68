"""Log of all evaluations on the drives that results are reported on: one JSON line per reading, beside the pages.

The more often a drive is evaluated on, the less it is an unseen test set. `models.export` (with ``--evaluate``),
`models.export.fuse` and `models.eval.depth_page` evaluate with `models.export.measure.run_evaluation`, which logs here.
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
READINGS = ROOT / "docs" / "models" / "depth-readings.jsonl"


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
        path: the log file.
        date: start time, UTC, to the minute.
    """

    source: str
    dataset: str
    path: Path
    date: str

    def log(self, folder: Path, variant: str, printed: dict[str, Any]) -> None:
        """Append an evaluation on a drive to the log; evaluations of classifiers are not logged.

        Args:
            folder: ``<models>/<name>/<version>``.
            variant: the evaluated variant.
            printed: output of ``service evaluate --json``.
        """
        if "delta1" not in printed:
            return
        card = Card.load(folder)
        entry = {"date": self.date, "source": self.source, "commit": commit(), "dataset": self.dataset}
        entry |= {"n": printed["n"], "model": f"{card.name}@{card.version}", "sha256": card.sha256[:12]}
        entry |= {"variant": variant} | {name: round(printed[name], 4) for name in ("delta1", "abs_rel")}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")


def occasion(source: str, dataset: str, path: Path = READINGS) -> Occasion:
    """An `Occasion` that starts now."""
    return Occasion(source, dataset, path, datetime.now(UTC).isoformat(timespec="minutes"))


def count(path: Path, model: str) -> int:
    """The number of occasions on which a model of this name was evaluated, with any weights and version.

    For entries recorded from notes only the day is known, so ``what`` tells their occasions apart.
    """
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    own = (entry for entry in entries if entry["model"].partition("@")[0] == model)
    return len({(entry["date"], entry["source"], entry["dataset"], entry.get("what")) for entry in own})
