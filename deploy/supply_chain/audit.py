"""Known vulnerabilities in the locked packages: `make audit`, or `python -m deploy.supply_chain.audit LOCK ...`.

pip-audit queries an advisory service. If the service is unreachable or does not know a package, pip-audit skips the
package and still exits with 0, as if no vulnerabilities were found. Here, an audit that did not check every package of
a lock fails.

A lock is valid for every Python from 3.11 on, and may pin a package twice with different markers. Whatever this Python
would install, every pin is checked, except for those that are only for Windows.
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
    """The audit could not be done; the message says why and what to do."""


def wanted(lock: Path) -> list[Pin]:
    """The pins to audit, in the lock's order: all except those only for Windows, where the service does not run.

    Raises:
        AuditError: the lock cannot be read, has no pins, or has a line that is not a pin and would be overlooked.
    """
    try:
        found = pins(lock)
        lines = lock.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AuditError(f"{lock} was not audited: {error}.") from None
    if not found or len(found) != sum(line[:1] not in {"", " ", "\t", "#"} for line in lines):
        raise AuditError(
            f"{lock} was not audited: it must consist of packages pinned with ==, as written by `make lock`."
        )
    return [pin for pin in found if "win32" not in pin.marker.replace("!= 'win32'", "")]


def sheets(found: Sequence[Pin]) -> list[list[Pin]]:
    """Splits the pins into as few lists as possible without duplicate packages, which pip-audit refuses."""
    spread: list[dict[str, Pin]] = []
    for pin in found:
        sheet = next((sheet for sheet in spread if pin.name not in sheet), None)
        if sheet is None:
            spread.append(sheet := {})
        sheet[pin.name] = pin
    return [list(sheet.values()) for sheet in spread]


def ask(lock: Path) -> list[dict[str, Any]]:
    """pip-audit's result for each package.

    pip-audit gets copies of the lock without markers, which would make it skip packages that this Python does not
    install, and without hashes, which it does not use.

    Raises:
        AuditError: pip-audit failed, or the file is not a lock.
    """
    dependencies: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for sheet in sheets(wanted(lock)):
            copy = Path(folder) / lock.name
            copy.write_text("".join(f"{pin.name}=={pin.version}\n" for pin in sheet), encoding="utf-8")
            dependencies += _ask_of_copy(copy)
    return dependencies


def _ask_of_copy(copy: Path) -> list[dict[str, Any]]:
    """Like `ask`, for a file without markers and duplicates."""
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
    """The vulnerabilities, one line each.

    Args:
        lock: The audited lock.
        answers: pip-audit's results, one per pin.

    Raises:
        AuditError: not every pin of the lock was audited.
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
            "An audit needs the advisory service: run it on a machine with access to it."
        )
    return [
        f"{answer['name']} {answer['version']}: {hole['id']}, fixed in {' or '.join(hole['fix_versions']) or 'none'}"
        for answer in answers
        for hole in answer["vulns"]
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Audits locks. Returns 0: no vulnerabilities; 1: vulnerabilities; 2: not every package was audited."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.supply_chain.audit", description="Finds known vulnerabilities in locked packages."
    )
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
        print(f"{lock.name}: {len(wanted(lock))} packages audited, {len(holes)} known vulnerabilities")
    return status


if __name__ == "__main__":
    sys.exit(main())
