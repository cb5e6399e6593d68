"""The wheel: the same source gives the same bytes, wherever it lies."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("pyproject.toml", "CMakeLists.txt", "README.md", "service")
EPOCH = "1700000000"  # any fixed moment


def build(folder: Path) -> Path:
    """Builds the wheel from a copy of the sources."""
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(ROOT / name, folder / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"SOURCE_DATE_EPOCH": EPOCH, "PATH": path, "CMAKE_BUILD_PARALLEL_LEVEL": "2"}
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        "out",
        ".",
    ]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    (wheel,) = (folder / "out").glob("*.whl")
    return wheel


def check_as_in_the_release(site: Path) -> subprocess.CompletedProcess[str]:
    """What cibuildwheel runs where the wheel is installed, with a folder of the wheel's files instead."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    python, *rest = config["test-command"].format(project=ROOT).split()
    assert python == "python"
    environment = os.environ | {"PYTHONPATH": str(site)}
    return subprocess.run([sys.executable, *rest], env=environment, capture_output=True, text=True, check=False)


def assert_only_a_working_wheel_passes(wheel: Path, site: Path) -> None:
    zipfile.ZipFile(wheel).extractall(site)
    library = site / "service/xnor_op/libbireal_op.so"
    checked = check_as_in_the_release(site)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.startswith(f"{library} would choose")
    assert "scalar: exact" in checked.stdout
    library.write_bytes(b"no library")
    assert check_as_in_the_release(site).returncode != 0


@pytest.mark.slow
def test_two_builds_in_two_places_give_the_same_bytes(tmp_path: Path) -> None:
    """About 30 s of CPU: the operator is compiled twice."""
    (tmp_path / "one").mkdir()
    (tmp_path / "another/place").mkdir(parents=True)
    first, second = build(tmp_path / "one"), build(tmp_path / "another/place")
    assert first.name == second.name
    digests = [hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in (first, second)]
    if digests[0] != digests[1]:
        contents = [
            {info.filename: info.CRC for info in zipfile.ZipFile(wheel).infolist()} for wheel in (first, second)
        ]
        differing = [name for name in contents[0] if contents[0][name] != contents[1].get(name)]
        pytest.fail(f"these differ: {differing or 'only the order or the times of the entries'}")
    names = zipfile.ZipFile(first).namelist()
    assert "service/xnor_op/libbireal_op.so" in names
    assert not [name for name in names if name.endswith((".cc", ".h", ".inc", ".clang-format"))]
    assert not [name for name in names if name.startswith(("tests/", "models/", "deploy/"))]
    assert_only_a_working_wheel_passes(first, tmp_path / "site")
