"""The header of a benchmark result: CPU, instruction set, versions, commit, date."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from loadtest.records.schema import Machine
from loadtest.stack import ROOT
from service import xnor_op
from service.host import usable_cpus

PACKAGES = (
    *("bireal-serve", "onnxruntime", "openvino", "onnx", "numpy", "torch", "pillow"),
    *("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "mosec", "locust"),
)
FLAGS = (
    "popcnt", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_vpopcntdq", "avx512_bf16",
    "amx_int8", "asimd", "asimddp",
)  # fmt: skip


def describe_machine() -> Machine:
    """Describes the machine of this process.

    Raises:
        OpUnavailableError: the bit-packed operator is missing, whose kernel is part of the header.
    """
    cpu = cpu_facts()
    flags = set(cpu.get("flags", cpu.get("features", "")).split())
    identity = [cpu[key] for key in ("vendor_id", "cpu family", "model", "stepping") if key in cpu]
    return Machine(
        cpu=cpu.get("model name") or platform.processor() or platform.machine(),
        cpu_id=" ".join(identity) or platform.machine(),
        cpu_flags=tuple(flag for flag in FLAGS if flag in flags),
        isa=xnor_op.kernel_name(),
        usable_kernels=tuple(xnor_op.usable_kernels()),
        usable_cpus=usable_cpus(),
        load_1m=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        system=platform.platform(),
        versions=_versions(),
        commit=_commit(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def cpu_facts(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Linux's description of the first CPU, by field; empty on other systems."""
    try:
        lines = cpuinfo.read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    fields = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in fields}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    """The checked-out commit, with a `+` if tracked files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - fixed

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
        return "unknown"
