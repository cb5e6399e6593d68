"""Known holes in the locked packages: `make audit`, or `python -m deploy.supply_chain.audit LOCK ...`.

pip-audit asks an advisory service. Where that cannot be reached, or does not know a package, pip-audit skips the
package and still ends with 0, which would pass for "no holes found". Here an audit that did not look at every package
of a lock has failed, and says so.

A lock holds for every Python from 3.11 on and names some packages twice, each version under a condition (a marker).
Which of them this Python would install does not matter here: every pin is looked at, but those for Windows alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.supply_chain.locks import RUNTIME_LOCK, Pin, normalised, pins

FOUND_HOLES, NOT_AUDITED = 1, 2


class AuditError(Exception):
    """The audit did not happen; the message says why and what to do."""


def wanted(lock: Path) -> list[Pin]:
    """The pins to look at, in the lock's order: all but those for Windows alone, where the service does not run.

    Raises:
        AuditError: it cannot be read, pins nothing, or has a line that is no pin and would pass unseen.
    """
    try:
        found = pins(lock)
        lines = lock.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AuditError(f"{lock} was not audited: {error}.") from None
    if not found or len(found) != sum(line[:1] not in {"", " ", "\t", "#"} for line in lines):
        raise AuditError(
            f"{lock} was not audited: it is to consist of packages pinned by ==, as `make lock` writes them."
        )
    return [pin for pin in found if "win32" not in pin.marker.replace("!= 'win32'", "")]


def sheets(found: Sequence[Pin]) -> list[list[Pin]]:
    """The pins spread over lists that name no package twice, which pip-audit refuses: as few as that takes."""
    spread: list[dict[str, Pin]] = []
    for pin in found:
        sheet = next((sheet for sheet in spread if pin.name not in sheet), None)
        if sheet is None:
            spread.append(sheet := {})
        sheet[pin.name] = pin
    return [list(sheet.values()) for sheet in spread]


def ask(lock: Path) -> list[dict[str, Any]]:
    """What pip-audit says of each package.

    It is given copies without markers, by which it would leave out what this Python does not install, and without
    hashes, which it does not compare with anything.

    Raises:
        AuditError: it did not run to its end, or the file is no lock.
    """
    dependencies: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for sheet in sheets(wanted(lock)):
            copy = Path(folder) / lock.name
            copy.write_text("".join(f"{pin.name}=={pin.version}\n" for pin in sheet), encoding="utf-8")
            dependencies += _ask_of_copy(copy)
    return dependencies


def _ask_of_copy(copy: Path) -> list[dict[str, Any]]:
    """As `ask`, of a file without markers that names nothing twice."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(copy), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  arguments of our own
    try:
        answer = json.loads(run.stdout)
    except ValueError:
        reason = (run.stderr.strip().splitlines() or [f"it ended with {run.returncode}"])[-1]
        raise AuditError(f"{copy.name} was not audited: pip-audit said {reason!r}.") from None
    dependencies: list[dict[str, Any]] = answer["dependencies"]
    return dependencies


def judge(lock: Path, answers: Sequence[dict[str, Any]]) -> list[str]:
    """The holes, a line each.

    Args:
        lock: What was audited.
        answers: pip-audit's, one a pin.

    Raises:
        AuditError: not every pin of the lock was looked at.
    """
    audited = {(normalised(answer["name"]), answer["version"]) for answer in answers if "skip_reason" not in answer}
    all_pins = wanted(lock)
    missing = [f"{pin.name} {pin.version}" for pin in all_pins if (pin.name, pin.version) not in audited]
    if missing:
        reasons = {answer["skip_reason"] for answer in answers if "skip_reason" in answer}
        named = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise AuditError(
            f"{lock.name}: {len(missing)} of {len(all_pins)} packages were not audited ({named}). "
            f"{min(reasons, default='pip-audit said nothing of them.')} "
            "An audit needs the advisory service: run it where the network reaches it."
        )
    return [
        f"{answer['name']} {answer['version']}: {hole['id']}, fixed in {' or '.join(hole['fix_versions']) or 'none'}"
        for answer in answers
        for hole in answer["vulns"]
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Audits locks. Returns 0: no holes; 1: holes; 2: not every package was audited."""
    parser = argparse.ArgumentParser(prog="python -m deploy.supply_chain.audit", description="Known holes.")
    parser.add_argument("locks", nargs="*", type=Path, default=[RUNTIME_LOCK], metavar="LOCK")
    status = 0
    for lock in parser.parse_args(argv).locks:
        try:
            holes = judge(lock, ask(lock))
        except AuditError as error:
            print(f"error: {error}", file=sys.stderr)
            return NOT_AUDITED
        for hole in holes:
            print(hole)
        status = FOUND_HOLES if holes else status
        print(f"{lock.name}: {len(wanted(lock))} packages audited, {len(holes)} known holes")
    return status


if __name__ == "__main__":
    sys.exit(main())
