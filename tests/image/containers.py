"""The image, built and run with Debian's buildah and podman where they are installed.

No registry is asked: the base is made here, from Debian's packages, in place of the official Python image. What stands
in the Dockerfile is built unchanged but for that argument.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASE = "localhost/bireal-test/python:3.11-slim-bookworm"
IMAGE = "localhost/bireal-test/service:latest"
BUILD_S = 1200

# How this machine reaches packages: handed to the build, so that it works wherever `make setup` does.
PIP_FILES = (Path("/etc/pip.conf"), Path("/etc/ssl/certs"))
PIP_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "http_proxy", "https_proxy", "no_proxy")


def run(*command: object, timeout_s: float = 120) -> str:
    """The standard output of a command that has to succeed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.strip()


def need_tools() -> None:
    """Skips the test, by name, where images cannot be built and run."""
    for name in ("buildah", "podman", "runc", "debootstrap"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed (Debian: apt-get install buildah podman runc debootstrap)")
    if os.geteuid() != 0:
        pytest.skip("buildah --isolation chroot and debootstrap need root")
    probe = subprocess.run(["buildah", "from", "scratch"], capture_output=True, text=True, timeout=60, check=False)
    if probe.returncode:
        pytest.skip(f"buildah cannot work here: {probe.stderr.strip()[-200:]}")
    container = probe.stdout.strip()
    mounted = subprocess.run(["buildah", "mount", container], capture_output=True, text=True, timeout=60, check=False)
    run("buildah", "rm", container)
    if mounted.returncode:
        pytest.skip(f"buildah cannot mount here: {mounted.stderr.strip()[-200:]}")


def make_base() -> None:
    """Makes the base image, unless an earlier run has."""
    if subprocess.run(["buildah", "inspect", BASE], capture_output=True, timeout=60, check=False).returncode == 0:
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "root"
        packages = "--include=python3,python3-venv,ca-certificates"
        run("debootstrap", "--variant=minbase", packages, "bookworm", tree, timeout_s=BUILD_S)
        (tree / "usr/bin/python").symlink_to("python3")  # as in the official image
        for cache in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(tree / cache)
        container = run("buildah", "from", "scratch")
        try:
            run("buildah", "add", "--quiet", container, tree, "/", timeout_s=BUILD_S)
            run("buildah", "commit", "--quiet", container, BASE, timeout_s=BUILD_S)
        finally:
            run("buildah", "rm", container)


def build() -> str:
    """Builds the Dockerfile; returns the image's name. Layers are kept, so that a second build is quick."""
    make_base()
    options: list[object] = [f"--volume={path}:{path}:ro" for path in PIP_FILES if path.exists()]
    options += [f"--build-arg={name}={os.environ[name]}" for name in PIP_VARIABLES if name in os.environ]
    # Docker's format: OCI's knows no HEALTHCHECK.
    run(
        "buildah", "bud", "--isolation=chroot", "--format=docker", "--layers", f"--build-arg=BASE={BASE}",
        "--build-arg=REVISION=0123abc", *options, f"--tag={IMAGE}", ROOT, timeout_s=BUILD_S,
    )  # fmt: skip
    return IMAGE


def ulimits() -> list[str]:
    """Options that keep podman from asking for more open files and processes than this process may give."""
    limits = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    most = {name: min(4096, resource.getrlimit(kind)[1]) for name, kind in limits.items()}
    return [f"--ulimit={name}={value}:{value}" for name, value in most.items() if value > 0]
