"""Builds the arithmetic with AddressSanitizer and UndefinedBehaviorSanitizer and runs its fuzz test (unit/fuzz.cc)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.xnor_op import opkit

CASES = "40"


@pytest.mark.slow
@pytest.mark.timeout(900)  # half a minute of compiling, more where other work runs
def test_fuzz_under_sanitizers(tmp_path: Path, seed: int) -> None:
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    configure = [
        "cmake",
        "-S",
        str(opkit.SOURCE),
        "-B",
        str(tmp_path),
        "-DBIREAL_OP_TESTS=ON",
        "-DBIREAL_OP_SANITIZE=ON",
    ]
    for command in (configure, ["cmake", "--build", str(tmp_path), "-j2", "--target", "bireal_op_fuzz"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
    fuzz = [str(tmp_path / "bireal_op_fuzz"), CASES, str(seed)]
    done = subprocess.run(fuzz, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr[-6000:]}"
    assert "scalar: exact" in done.stdout
