"""Licences of the service's dependencies: `make licenses`, or `python -m deploy.supply_chain.licenses --write`.

A licence that is not on the list of reviewed licences is an error, so that adding a dependency is a conscious decision.
The table in docs/licenses.md is generated from the packages' metadata.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from deploy.supply_chain.locks import OTEL_LOCK, ROOT, RUNTIME_LOCK, normalised, pins

PAGE = ROOT / "docs" / "licenses.md"
_BEGIN, _END = "<!-- licenses: written by `make licenses` -->\n", "<!-- /licenses -->"

#: Name used by packages -> SPDX. All permit use and unmodified redistribution in source and binary form with the
#: notice; MPL-2.0 also requires that changes to its own files are published.
ALLOWED = {
    "0BSD": "0BSD",
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "Apache-2.0": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "BSD-2-Clause": "BSD-2-Clause",
    "BSD-3-Clause": "BSD-3-Clause",
    "CC0-1.0": "CC0-1.0",
    "MIT": "MIT",
    "MIT License": "MIT",
    "MIT-CMU": "MIT-CMU",
    "MPL-2.0": "MPL-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "PSF-2.0": "PSF-2.0",
    "Zlib": "Zlib",
}


class Licensed(NamedTuple):
    """A package and its licence according to its metadata."""

    name: str
    version: str
    license: str


def installed(lock: Path = RUNTIME_LOCK) -> list[Licensed]:
    """The packages of a lock that are installed here, sorted by name."""
    names = sorted({pin.name for pin in pins(lock)})
    command = [sys.executable, "-m", "piplicenses", "--from=mixed", "--format=json", "--packages", *names]
    run = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  arguments of our own
    found = [Licensed(normalised(one["Name"]), one["Version"], one["License"]) for one in json.loads(run.stdout)]
    return sorted(found)


def spdx(text: str) -> str | None:
    """A licence expression in SPDX names; None if a part of it is not allowed.

    In a choice (`OR`) every part must be allowed too, so that it does not matter which one is chosen.
    """
    parts = [part.strip() for part in re.split(r"; | (?:AND|OR) ", text)]
    if any(part not in ALLOWED for part in parts):
        return None
    joint = " OR " if " OR " in text else " AND "
    return joint.join(dict.fromkeys(ALLOWED[part] for part in parts))


def complaints(packages: Sequence[Licensed], lock: Path = RUNTIME_LOCK) -> list[str]:
    """One sentence for each package with an unreviewed licence, and for each package of the lock that is missing."""
    unknown = [
        f"{one.name} {one.version} is under {one.license!r}, which is not on the list in "
        "deploy/supply_chain/licenses.py: review it, then add it or remove the package."
        for one in packages
        if spdx(one.license) is None
    ]
    missing = {pin.name for pin in pins(lock) if not pin.marker} - {one.name for one in packages}
    return unknown + [f"{name} is locked but not installed: run `make setup` first." for name in sorted(missing)]


def table(packages: Sequence[Licensed]) -> str:
    """The table of docs/licenses.md."""
    rows = [f"| {one.name} | {one.version} | {spdx(one.license) or one.license} |" for one in packages]
    return "\n".join(["| package | version | licence |", "|---|---|---|", *rows]) + "\n"


def page(text: str, packages: Sequence[Licensed]) -> str:
    """The page with its table replaced."""
    before, _, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    return f"{before}{_BEGIN}{table(packages)}{end}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Checks the licences and, with `--write`, updates the table. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.supply_chain.licenses", description="Checks the licences of the dependencies."
    )
    parser.add_argument("--write", action="store_true", help="update the table in docs/licenses.md")
    arguments = parser.parse_args(argv)
    packages = installed()
    found = complaints(packages) or complaints(installed(OTEL_LOCK), OTEL_LOCK)
    for complaint in found:
        print(f"error: {complaint}", file=sys.stderr)
    if found:
        return 1
    if arguments.write:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), packages), encoding="utf-8")
    print(f"{len(packages)} packages, licences: {', '.join(sorted({str(spdx(one.license)) for one in packages}))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
