"""Builds the operator's test programs with CMake, outside pip's build, and says what is missing where it cannot."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.xnor_op import opkit


def require_tools(*tools: str) -> None:
    """Skips the test where one of these commands is not installed."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def build(folder: Path, targets: Sequence[str], *, source: Path = opkit.SOURCE, **definitions: str) -> Path:
    """Configures and builds targets of the operator's CMake project, with its unit tests.

    Args:
        folder: where to build.
        targets: CMake targets.
        source: folder of the CMake project, if not the operator's own.
        definitions: CMake variables.

    Returns:
        `folder`.
    """
    options = [f"-D{name}={value}" for name, value in {"BIREAL_OP_TESTS": "ON", **definitions}.items()]
    run(["cmake", "-S", str(source), "-B", str(folder), *options])
    run(["cmake", "--build", str(folder), "-j2", "--target", *targets])
    return folder


def run(command: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Standard output of a command that must succeed; what it said is the failure's message."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}"
    return done.stdout
