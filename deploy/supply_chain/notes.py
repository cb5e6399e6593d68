"""Release notes from the changelog: `python -m deploy.supply_chain.notes 0.1.0`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from deploy.supply_chain.locks import ROOT

CHANGELOG = ROOT / "CHANGELOG.md"


class NotesError(Exception):
    """There are no notes for a version; the message says why."""


def notes(changelog: str, version: str) -> str:
    """The section of a version, without its heading.

    Raises:
        NotesError: the section is missing or empty.
    """
    sections = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    for section in sections:
        heading, _, body = section.partition("\n")
        if re.match(rf"\[?{re.escape(version)}\]?(?:\s|$)", heading):
            if not body.strip():
                raise NotesError(f"The section {version} of CHANGELOG.md is empty.")
            return body.strip() + "\n"
    known = ", ".join(section.partition("\n")[0] for section in sections)
    raise NotesError(
        f"CHANGELOG.md has no section {version}; it has: {known}. Name the released section after its version."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the notes. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.supply_chain.notes", description="Prints release notes.")
    parser.add_argument("version", help="section of CHANGELOG.md, such as 0.1.0 or Unreleased")
    try:
        print(notes(CHANGELOG.read_text(encoding="utf-8"), parser.parse_args(argv).version.removeprefix("v")), end="")
    except NotesError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
