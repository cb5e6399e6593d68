"""Known holes in the locked packages: `make audit`, or `python -m deploy.supply_chain.audit LOCK ...`.

pip-audit asks an advisory service. Where that cannot be reached, or does not know a package, pip-audit skips the
package and still ends with 0, which would pass for "no holes found". Here an audit that did not look at every package
of a lock has failed, and says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.supply_chain.locks import RUNTIME_LOCK, normalised, pins

FOUND_HOLES, NOT_AUDITED = 1, 2


class AuditError(Exception):
    """The audit did not happen; the message says why and what to do."""


def ask(lock: Path) -> list[dict[str, Any]]:
    """What pip-audit says of each package.

    Raises:
        AuditError: it did not run to its end.
    """
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  arguments of our own
    try:
        answer = json.loads(run.stdout)
    except ValueError:
        reason = (run.stderr.strip().splitlines() or [f"it ended with {run.returncode}"])[-1]
        raise AuditError(f"{lock.name} was not audited: pip-audit said {reason!r}.") from None
    dependencies: list[dict[str, Any]] = answer["dependencies"]
    return dependencies


def judge(lock: Path, answers: Sequence[dict[str, Any]]) -> list[str]:
    """The holes, a line each.

    Args:
        lock: What was audited.
        answers: pip-audit's, one a package.

    Raises:
        AuditError: not every package of the lock was looked at.
    """
    audited = {normalised(answer["name"]) for answer in answers if "skip_reason" not in answer}
    wanted = {pin.name for pin in pins(lock) if "win32" not in pin.marker.replace("!= 'win32'", "")}
    missing = sorted(wanted - audited)
    if missing:
        reasons = {answer["skip_reason"] for answer in answers if "skip_reason" in answer}
        named = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise AuditError(
            f"{lock.name}: {len(missing)} of {len(wanted)} packages were not audited ({named}). "
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
        print(f"{lock.name}: {len(pins(lock))} packages audited, {len(holes)} known holes")
    return status


if __name__ == "__main__":
    sys.exit(main())
