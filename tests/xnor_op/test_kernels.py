"""Every kernel of the table, each in a process of its own, against the naive versions.

BIREAL_KERNEL is read once a process, and a kernel that the CPU cannot run must not take the test run down: hence the
subprocesses. A kernel that this CPU lacks is SKIPPED by name, never passed.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.xnor_op import opkit

HERE = Path(__file__).resolve().parent
EXACTNESS = ["test_pack.py", "test_bconv.py", "test_stem.py", "test_avgpool.py", "test_pointwise.py"]
PRINT_KERNEL = (
    "import ctypes, sys; op = ctypes.CDLL(sys.argv[1]); op.bireal_kernel_name.restype = ctypes.c_char_p; "
    "print((op.bireal_kernel_name() or b'none').decode())"
)


def usable() -> list[str]:
    op = ctypes.CDLL(opkit.library())
    op.bireal_kernel_names.restype = ctypes.c_char_p
    return op.bireal_kernel_names().decode().split(",")


def chosen(kernel: str | None) -> str:
    """The kernel that a fresh process uses when BIREAL_KERNEL is this, "none" if it refuses."""
    env = {name: text for name, text in os.environ.items() if name != "BIREAL_KERNEL"}
    env |= {} if kernel is None else {"BIREAL_KERNEL": kernel}
    command = [sys.executable, "-c", PRINT_KERNEL, opkit.library()]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("kernel", opkit.kernel_names())
def test_kernel_is_exact(kernel: str) -> None:
    if kernel not in usable():
        pytest.skip(f"this CPU cannot run the kernel {kernel}")
    assert chosen(kernel) == kernel
    files = [str(HERE / name) for name in EXACTNESS]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    env = os.environ | {"BIREAL_KERNEL": kernel, "BIREAL_OP_LIBRARY": opkit.library()}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=HERE.parents[1])
    assert done.returncode == 0, f"kernel {kernel} failed:\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"


def test_table_lists_the_portable_kernel_last() -> None:
    assert opkit.kernel_names()[-1] == "scalar"
    assert usable()[-1] == "scalar"
    assert set(usable()) <= set(opkit.kernel_names())


def test_fastest_usable_kernel_is_the_default() -> None:
    assert chosen(None) == usable()[0]
    assert chosen("") == usable()[0]
    assert chosen("auto") == usable()[0], "a value of the setting, which only the service translates"


def refusal(kernel: str) -> str:
    """What ONNX Runtime says in a fresh process when BIREAL_KERNEL is this."""
    program = (
        "import sys, onnxruntime as ort\n"
        "try:\n"
        "    ort.SessionOptions().register_custom_ops_library(sys.argv[1])\n"
        "except Exception as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-X", "utf8", "-c", program, opkit.library()]
    env = os.environ | {"BIREAL_KERNEL": kernel}
    return subprocess.run(command, env=env, capture_output=True, check=True).stdout.decode()


def test_unknown_kernel_is_refused_by_name() -> None:
    assert chosen("mmx") == "none"
    message = refusal("mmx")
    assert "BIREAL_KERNEL is 'mmx'" in message
    assert ",".join(usable()) in message


@pytest.mark.parametrize("first", ["", "a"])
def test_a_message_that_is_cut_ends_with_a_whole_character(first: str) -> None:
    """Python reads messages as UTF-8: with half a character it would only say that it cannot."""
    assert f"BIREAL_KERNEL is '{first}éé" in refusal(first + "é" * 600)
