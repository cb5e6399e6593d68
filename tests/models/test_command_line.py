"""A mistake on the command line of `models.*` or `loadtest.*` is said in two lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from models.command_line import Parser

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("module", ["models.report", "loadtest.capacity", "loadtest.load"])
def test_a_mistake_is_two_lines(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--nonsense"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    said, remedy = done.stderr.splitlines()
    assert said.startswith(f"python -m {module}: error: ")
    assert remedy == f"Run `python -m {module} --help` for usage."


def test_the_usage_is_still_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="python -m x")
    parser.add_argument("--data", required=True)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args([])
    assert capsys.readouterr().err.startswith("python -m x: error: the following arguments are required: --data\n")
    with pytest.raises(SystemExit, match="0"):
        parser.parse_args(["--help"])
    assert capsys.readouterr().out.startswith("usage: python -m x [-h] --data DATA")


def test_every_program_uses_it() -> None:
    for package in ("models", "loadtest"):
        for path in (ROOT / package).rglob("*.py"):
            assert "= argparse.ArgumentParser(" not in path.read_text(), path
