"""The rule that a required test may not be skipped, tried on small suites in a pytest of their own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest
def test_runs(): pass
@pytest.mark.skip(reason="no such CPU")
def test_skipped(): pass
@pytest.mark.parametrize("kernel", ["scalar", pytest.param("neon", marks=pytest.mark.skip(reason="not this CPU"))])
def test_cases(kernel): pass
"""

PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "xdist.plugin", "--rootdir=."]
ENVIRONMENT = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": ""}  # the others take most of the time of a start


def run_suite(folder: Path, required: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run SUITE in ``folder`` with this project's conftest, the given list and further options."""
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "test_suite.py").write_text(SUITE)
    (folder / "required.txt").write_text(required)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--rootdir=.",
            "--required",
            "required.txt",
            *options,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "required",
    ["", "# only a comment\n", "test_suite.py::test_runs\n", "test_suite.py::test_cases[scalar]  # this case only\n"],
)
def test_green_when_every_listed_test_ran(tmp_path: Path, required: str) -> None:
    run = run_suite(tmp_path, required)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize(
    ("required", "complaint"),
    [
        ("test_suite.py::test_skipped", "test_suite.py::test_skipped was skipped: Skipped: no such CPU"),
        ("test_suite.py", "test_suite.py::test_skipped was skipped: Skipped: no such CPU"),
        ("test_suite.py::test_cases", "test_suite.py::test_cases[neon] was skipped: Skipped: not this CPU"),
        ("test_suite.py::test_gone", "test_suite.py::test_gone matches no test that ran"),
        ("test_suite.py::test_run", "test_suite.py::test_run matches no test that ran"),
    ],
)
def test_red_when_a_listed_test_did_not_run(tmp_path: Path, required: str, complaint: str) -> None:
    run = run_suite(tmp_path, required)
    assert run.returncode == 1, run.stdout
    assert complaint in run.stdout


def test_processes_that_share_a_run_are_judged_together(tmp_path: Path) -> None:
    for name in "ab":
        shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
        (tmp_path / f"test_{name}.py").write_text(f"def test_{name}(rng): assert rng.integers(1 << 60) < 0")
    green = run_suite(
        tmp_path, "test_suite.py::test_runs\ntest_suite.py::test_cases[scalar]\n", "-n", "2", "-k", "suite"
    )
    assert green.returncode == 0, green.stdout
    red = run_suite(tmp_path, "test_suite.py", "-n", "2", "-k", "suite")
    assert red.returncode == 1, red.stdout
    assert "test_suite.py::test_skipped was skipped: Skipped: no such CPU" in red.stdout
    seeds = re.findall(r"repeat with BIREAL_TEST_SEED=(\d+) pytest", run_suite(tmp_path, "", "-n", "2").stdout)
    assert len(seeds) == 2
    assert len(set(seeds)) == 1, "both drew from the run's seed"


def test_a_module_that_skips_itself_counts_as_skipped(tmp_path: Path) -> None:
    (tmp_path / "test_whole.py").write_text("import pytest\npytest.skip('no torch', allow_module_level=True)\n")
    run = run_suite(tmp_path, "test_whole.py::test_anything\n")
    assert run.returncode == 1, run.stdout
    assert "test_whole.py was skipped: Skipped: no torch" in run.stdout


def test_the_seed_is_printed_and_repeats(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_draw.py").write_text("def test_draw(rng): print('drew', rng.integers(1 << 60)); assert 0\n")

    def drawn(seed: str) -> str:
        run = subprocess.run(
            PYTEST,
            cwd=tmp_path,
            env=ENVIRONMENT | {"BIREAL_TEST_SEED": seed},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert f"seed: {seed}" in run.stdout
        assert f"repeat with BIREAL_TEST_SEED={seed} pytest 'test_draw.py::test_draw'" in run.stdout
        return run.stdout.partition("drew ")[2].split()[0]

    assert drawn("7") == drawn("7")
    assert drawn("7") != drawn("8")
