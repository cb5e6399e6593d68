"""A machine that lacks something is told what and how to get it, in one sentence, before anything is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
COMPILERS = {"c++", "g++", "clang++", "cc", "gcc", "clang", "CC", "aCC", "cl", "bcc", "xlC", "icpx", "icx"}
SENTENCE = "A C++17 compiler is needed to build the bit-packed operator and none was found: install one"


@pytest.fixture(scope="module")
def path_without_compilers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with links to everything on PATH but the C and C++ compilers."""
    folder = tmp_path_factory.mktemp("bin")
    for directory in os.environ["PATH"].split(os.pathsep):
        for program in Path(directory).glob("*"):
            name = program.name
            is_compiler = name in COMPILERS or name.rpartition("-")[0] in COMPILERS or "-linux-gnu-" in name
            if not is_compiler and not (folder / name).exists() and os.access(program, os.X_OK):
                (folder / name).symlink_to(program)
    return folder


def environment(path: Path | str) -> dict[str, str]:
    """This environment with another PATH, no compiler named in it, and nothing inherited from an outer make."""
    kept = {k: v for k, v in os.environ.items() if k not in {"CXX", "CC", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    return {**kept, "PATH": str(path)}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What `make` reads before it installs anything, in a folder without .venv."""
    for name in ("Makefile", "CMakeLists.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    return tmp_path


@pytest.mark.parametrize("target", ["serve", "setup", "test"])
def test_make_without_a_compiler(tree: Path, path_without_compilers: Path, target: str) -> None:
    run = subprocess.run(
        ["make", target], cwd=tree, env=environment(path_without_compilers), capture_output=True, text=True, timeout=60
    )
    said = [line for line in run.stderr.splitlines() if not line.startswith("make")]
    assert run.returncode != 0
    assert len(said) == 1, run.stderr
    assert said[0].lower().startswith("error: " + SENTENCE.lower())
    assert "apt-get install g++" in said[0]
    assert not (tree / ".venv").exists(), "the check comes before anything is made"


def test_make_with_a_compiler_variable_that_names_nothing(tree: Path) -> None:
    run = subprocess.run(
        ["make", "serve"],
        cwd=tree,
        env={**environment(os.environ["PATH"]), "CXX": "no-such-compiler -O2"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode != 0
    assert SENTENCE.lower() in run.stderr.lower()


def test_make_with_a_python_that_is_too_old(tree: Path, tmp_path: Path) -> None:
    old = tmp_path / "bin"
    old.mkdir()
    for name in ("bash", "make", "find", "flock", "mkdir", "touch"):
        (old / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    (old / "python3").write_text("#!/bin/sh\nexit 1\n")  # what a Python below 3.11 answers to the question for 3.11
    (old / "python3").chmod(0o755)
    run = subprocess.run(["make", "serve"], cwd=tree, env=environment(old), capture_output=True, text=True, timeout=60)
    assert run.returncode != 0
    assert "error: Python 3.11 or newer is needed and none was found" in run.stderr
    assert not (tree / ".venv").exists()


def test_make_clean_leaves_nothing_that_git_ignores_as_built_or_cached(tree: Path) -> None:
    sections = (ROOT / ".gitignore").read_text().split("\n\n")
    lines = [line for section in sections if section.startswith(("# Environments and builds", "# Caches"))
             for line in section.splitlines()]  # fmt: skip
    folders = [tree / line for line in lines if re.fullmatch(r"[.\w-]+/", line) and line != "__pycache__/"]
    assert {".venv", "build", ".hypothesis"} <= {folder.name for folder in folders}
    for folder in (*folders, tree / "data"):
        (folder / "inner").mkdir(parents=True)
    subprocess.run(["make", "clean"], cwd=tree, env=environment(os.environ["PATH"]), check=True, timeout=60)
    assert [folder for folder in folders if folder.exists()] == []
    assert (tree / "data/inner").exists()
    assert (tree / "requirements").exists()


def test_cmake_without_a_compiler(tmp_path: Path, path_without_compilers: Path) -> None:
    cmake = Path(sys.executable).with_name("cmake")  # the locked one, installed with the service
    run = subprocess.run(
        [cmake, "-S", ROOT, "-B", tmp_path / "build", "-G", "Unix Makefiles"],
        env=environment(path_without_compilers),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode != 0
    assert SENTENCE in " ".join(run.stderr.split())
    assert run.stderr.count("CMake Error") == 1, run.stderr


def test_locks_hold_every_package_to_a_hash_but_torch() -> None:
    for name in ("build", "runtime", "dev", "bench", "load", "otel", "teacher"):
        text = (ROOT / "requirements" / f"{name}.lock").read_text()
        assert "://" not in text, f"{name}.lock names a host"
        requirements = [line for line in text.splitlines() if "==" in line and not line.lstrip().startswith("#")]
        assert requirements
        assert all(line.endswith("\\") for line in requirements), f"{name}.lock has a package without a hash"
        assert not any(line.startswith(("torch==", "nvidia-", "triton==")) for line in requirements)
    pinned = (ROOT / "requirements/torch.lock").read_text().splitlines()[-1]
    assert f'"{pinned}"' in (ROOT / "pyproject.toml").read_text()


def test_every_locked_version_is_the_same_in_every_lock() -> None:
    versions: dict[str, set[tuple[str, str]]] = {}
    for name in ("runtime", "dev", "bench", "otel"):
        for line in (ROOT / "requirements" / f"{name}.lock").read_text().splitlines():
            if "==" in line and not line.startswith((" ", "#")):
                package, _, rest = line.partition("==")
                versions.setdefault(name, set()).add((package, rest))
    assert versions["runtime"] <= versions["dev"]
    assert versions["runtime"] <= versions["bench"]
    assert versions["runtime"] <= versions["otel"]


def test_hooks_are_valid_and_call_make_targets_that_exist() -> None:
    config = ROOT / ".pre-commit-config.yaml"
    validate = [Path(sys.executable).with_name("pre-commit"), "validate-config", config]
    run = subprocess.run(validate, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    said = yaml.safe_load(config.read_text())
    hooks = [hook for repo in said["repos"] for hook in repo["hooks"]]
    stages = {stage for hook in hooks for stage in hook["stages"]}
    assert stages <= set(said["default_install_hook_types"]), "`pre-commit install` installs no others"
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {hook["entry"].removeprefix("make ") for hook in hooks} == {"lint", "test"} <= targets
    ci = (ROOT / ".ci/run").read_text()
    assert all(f"make {target}" in ci for target in ("lint", "test")), "CI judges by the same targets"
