"""Reads the packages pinned in a lock file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
RUNTIME_LOCK = ROOT / "requirements" / "runtime.lock"
#: The same with the extra for tracing.
OTEL_LOCK = ROOT / "requirements" / "otel.lock"

_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)(?:\s*;\s*([^\\]+))?", re.MULTILINE)


class Pin(NamedTuple):
    """One locked package.

    Attributes:
        name: normalised name: lower case, with dashes.
        version: exact version.
        marker: environment marker under which it is installed; empty for always.
    """

    name: str
    version: str
    marker: str


def normalised(name: str) -> str:
    """A package's normalised name, as compared by package indexes."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: Path = RUNTIME_LOCK) -> list[Pin]:
    """Every package of a lock, in order; a package may occur twice, for different versions of Python."""
    found = _PIN.findall(lock.read_text(encoding="utf-8"))
    return [Pin(normalised(name), version, marker.strip()) for name, version, marker in found]
