"""Programs that are started without what they need say which command installs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.extras import remedy

ROOT = Path(__file__).resolve().parents[2]


def started_without(package: str, module: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Starts a program where importing the package fails as if it were not installed."""
    absent = f'raise ModuleNotFoundError("No module named {package!r}", name={package!r})\n'
    (folder / f"{package}.py").write_text(absent)
    env = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", module, "--help"]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("package", "module", "command", "status"),
    [
        ("torch", "models.train", "make setup", 1),
        ("torch", "models.export", "make setup", 1),
        ("torch", "models.accounting", "make setup", 1),
        ("torch", "models.import_official", "make setup", 1),
        ("locust", "loadtest.locustfile", "make .venv/.stamps/bench", 1),
        ("onnxruntime", "loadtest.network", "make setup", 1),
        ("numpy", "loadtest.kernel", "make setup", 1),
        ("fastapi", "service", ".venv/bin/python -m service", 2),
        ("onnxruntime", "service", "make setup", 2),
    ],
)
def test_the_command_is_named(package: str, module: str, command: str, status: int, tmp_path: Path) -> None:
    done = started_without(package, module, tmp_path)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and f"`{command}`" in line


@pytest.mark.parametrize(("module", "absent"), [("models.accounting", "models.arch"), ("service", "service.tasks")])
def test_another_missing_module_is_no_missing_package(module: str, absent: str, tmp_path: Path) -> None:
    """A module of our own that is not there is a fault, and keeps its traceback."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{absent!r}] = None\n")
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("package", ["openvino.runtime", "mosec", "matplotlib"])
def test_packages_of_the_extra_bench(package: str) -> None:
    assert "bireal-serve[bench]" in remedy(package)
