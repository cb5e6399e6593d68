"""Generates the dashboards: `python -m deploy.grafana.generate`; `--check` only checks that they are up to date.

Grafana reads the JSON files in `dashboards/`. They are generated from the modules of this package and never edited.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.grafana import comparison, models, service

FOLDER = Path(__file__).with_name("dashboards")
DASHBOARDS = (service.DASHBOARD, comparison.DASHBOARD, models.DASHBOARD)


def files() -> dict[str, str]:
    """Contents of the files, by name."""
    return {f"{board.name}.json": json.dumps(board.document(), indent=1) + "\n" for board in DASHBOARDS}


def stale(folder: Path = FOLDER) -> list[str]:
    """Names of files that are out of date, missing, or without a dashboard."""
    wanted = files()
    found = {path.name: path.read_text() for path in folder.glob("*.json")}
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def main(argv: Sequence[str] | None = None) -> int:
    """Writes or checks the files. Returns the exit code: 1 if `--check` found a difference."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.grafana.generate", description="Generates Grafana's dashboards."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    arguments = parser.parse_args(argv)
    if arguments.check:
        for name in stale():
            print(f"{name} is out of date: run `python -m deploy.grafana.generate`", file=sys.stderr)
        return int(bool(stale()))
    wanted = files()
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.json"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
