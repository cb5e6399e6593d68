"""How often a drive that figures are reported on was read: one line of JSON for each reading, beside the pages.

A drive that is looked at often is no longer unseen. `models.export` (with ``--evaluate``), `models.export.fuse` and
`models.eval.depth_page` all read it by `models.export.measure.run_evaluation`, which logs here.
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
    """The checkout's commit, 12 digits."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603  # fixed
    except (OSError, subprocess.CalledProcessError):  # a copy without history
        return "unknown"


@dataclass(frozen=True)
class Occasion:
    """One run of a program that reads a data set, however many variants it evaluates.

    Attributes:
        source: the program.
        dataset: what its figures call the data.
        path: of the log.
        date: when it began, UTC, to the minute.
    """

    source: str
    dataset: str
    path: Path
    date: str

    def log(self, folder: Path, variant: str, printed: dict[str, Any]) -> None:
        """Append what was read of a drive; figures of a classifier are none.

        Args:
            folder: ``<models>/<name>/<version>``.
            variant: that was evaluated.
            printed: what ``service evaluate --json`` printed of it.
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
    """An occasion that begins now."""
    return Occasion(source, dataset, path, datetime.now(UTC).isoformat(timespec="minutes"))


def count(path: Path, model: str) -> int:
    """On how many occasions a model of this name was evaluated, of whatever weights and version.

    Lines that were written from notes say in ``what`` which occasion they are of, since only their day is known.
    """
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    own = (entry for entry in entries if entry["model"].partition("@")[0] == model)
    return len({(entry["date"], entry["source"], entry["dataset"], entry.get("what")) for entry in own})
