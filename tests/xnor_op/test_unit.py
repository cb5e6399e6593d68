"""The operator with sanitizers and guard pages: its unit tests, and in ONNX Runtime's sessions.

pip's onnxruntime is not instrumented, but its tensors come from malloc, which the sanitizer replaces: any access of
the operator's beyond a tensor, read or written, ends the process. It does not see the masked loads and stores of
AVX-512: there, stand-ins for the instructions show it each lane, and in a build without it blocks of memory lie at
pages that may not be touched, whatever the instruction.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.xnor_op import usable_kernels
from tests.xnor_op import opkit
from tests.xnor_op.build import build, require_tools, run
from tests.xnor_op.emulated import emulated_sources
from tests.xnor_op.instructions import CROSS, CROSS_COMPILER

CASES = "40"
EMULATED_CASES = "15"
STAND_IN_CASES = "5"
GUARDED_CASES = "20"  # each block of memory takes five calls of the system
SHARED_CASES = "8"  # between two threads
MEMORY_SANITIZERS = "address,undefined"
AARCH64_LIBRARIES = Path("/usr/aarch64-linux-gnu")  # where Debian keeps those of the cross-compiler
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
IN_SESSIONS = [
    "test_session.py",
    "test_bconv.py",
    "test_pack.py",
    "test_stem.py",
    "test_avgpool.py",
    "test_pointwise.py",
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # half a minute of compiling, more where other work runs


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of the operator and its unit tests with both sanitizers."""
    require_tools("cmake", "c++")
    folder = tmp_path_factory.mktemp("sanitized")
    return build(folder, ["bireal_op", "bireal_op_fuzz"], BIREAL_OP_SANITIZE=MEMORY_SANITIZERS)


@pytest.fixture(scope="module")
def environment(sanitized: Path) -> dict[str, str]:
    """Environment of a Python process that loads the sanitized library.

    The sanitizer's runtime must come first in a process, and the C++ library with it, whose exceptions it watches.
    Leaks are not looked for: Python and NumPy keep memory until the process ends.
    """
    preload = [run(["c++", f"-print-file-name={name}"]).strip() for name in ("libasan.so", "libstdc++.so.6")]
    return os.environ | {
        "LD_PRELOAD": " ".join(preload),
        "ASAN_OPTIONS": "detect_leaks=0",
        "BIREAL_OP_LIBRARY": str(sanitized / "libbireal_op.so"),
        opkit.NO_ARENA_VARIABLE: "1",
    }


def test_fuzz(sanitized: Path, seed: int) -> None:
    said = run([str(sanitized / "bireal_op_fuzz"), CASES, str(seed)])
    assert "scalar: exact" in said


def test_fuzz_as_shipped(tmp_path: Path, seed: int) -> None:
    require_tools("cmake", "c++")
    build(tmp_path, ["bireal_op_fuzz"])
    said = run([str(tmp_path / "bireal_op_fuzz"), GUARDED_CASES, str(seed)])
    assert "scalar: exact" in said


def test_fuzz_of_avx512_on_any_cpu(tmp_path: Path, seed: int) -> None:
    """The same with all kernels for x86-64, and stand-ins for the AVX-512 instructions, which the machine may lack."""
    require_tools("cmake", "c++")
    if "avx2" not in usable_kernels():
        pytest.skip("the stand-ins need AVX2, which this CPU lacks")
    sources = emulated_sources(tmp_path)
    build(tmp_path / "build", ["bireal_op_fuzz"], source=sources, BIREAL_OP_SANITIZE=MEMORY_SANITIZERS)
    said = run([str(tmp_path / "build" / "bireal_op_fuzz"), STAND_IN_CASES, str(seed)]).splitlines()
    assert said[1:] == [f"{name}: exact" for name in ("avx512vpopcnt", "avx512vnni", "avx512bw", "avx2", "scalar")]


def test_memory_that_runs_out_is_a_status(tmp_path: Path) -> None:
    require_tools("cmake", "c++")
    build(tmp_path, ["bireal_op_no_memory"])
    assert run([str(tmp_path / "bireal_op_no_memory")]).startswith("6 operators")


def test_threads(tmp_path: Path, seed: int) -> None:
    """No two threads touch the same memory without an order, in tasks of one run and where sessions are opened."""
    require_tools("cmake", "c++")
    build(tmp_path, ["bireal_op_fuzz", "bireal_op_register"], BIREAL_OP_SANITIZE="thread")
    said = run([str(tmp_path / "bireal_op_fuzz"), SHARED_CASES, str(seed)])
    assert "scalar: exact" in said
    run([str(tmp_path / "bireal_op_register")])


def emulated_fuzz(folder: Path, cases: str, seed: int, *, cpu: str = "max") -> list[str]:
    """What the fuzz test of a cross-compiled build says in an emulated AArch64, without its first line."""
    env = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}  # leaks are found by ptrace, which is not emulated
    emulator = ["qemu-aarch64", "-cpu", cpu, "-L", str(AARCH64_LIBRARIES)]
    return run([*emulator, str(folder / "bireal_op_fuzz"), cases, str(seed)], env=env).splitlines()[1:]


def test_fuzz_on_aarch64(tmp_path: Path, seed: int) -> None:
    """The same for the NEON kernels: cross-compiled, with both sanitizers, in an emulated AArch64."""
    require_tools("cmake", CROSS_COMPILER, "qemu-aarch64")
    build(tmp_path, ["bireal_op", "bireal_op_fuzz"], BIREAL_OP_SANITIZE=MEMORY_SANITIZERS, **CROSS)
    assert emulated_fuzz(tmp_path, EMULATED_CASES, seed) == ["neondot: exact", "neon: exact", "scalar: exact"]


def test_fuzz_on_aarch64_as_shipped(tmp_path: Path, seed: int) -> None:
    """With guard pages; and a CPU without dot products of 8 bits does not get the kernels that need them."""
    require_tools("cmake", CROSS_COMPILER, "qemu-aarch64")
    build(tmp_path, ["bireal_op_fuzz"], **CROSS)
    assert emulated_fuzz(tmp_path, GUARDED_CASES, seed) == ["neondot: exact", "neon: exact", "scalar: exact"]
    assert emulated_fuzz(tmp_path, "1", seed, cpu="cortex-a53") == ["neon: exact", "scalar: exact"]


def test_session_tests(environment: dict[str, str]) -> None:
    files = [str(HERE / name) for name in IN_SESSIONS]
    said = run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files], env=environment, cwd=ROOT
    )
    assert re.search(r"[1-9]\d* passed", said), said


SHIPPED = """
import hashlib, sys
from pathlib import Path
import numpy as np
from tests.xnor_op import opkit
session = opkit.session(Path(sys.argv[1]).read_bytes(), threads=2)
(image,) = session.get_inputs()
rng = np.random.default_rng(0)
for batch in (1, 2):
    pixels = rng.integers(0, 256, (batch, *image.shape[1:]), np.uint8)
    print(hashlib.sha256(session.run(None, {image.name: pixels})[0].tobytes()).hexdigest())
"""


@pytest.mark.parametrize("file", sorted(ROOT.glob("models/zoo/bireal*/*/model.onnx")), ids=lambda path: path.parts[-3])
def test_shipped_network(environment: dict[str, str], file: Path) -> None:
    """A whole network runs clean, and its output is that of the library in use, bit for bit."""
    command = [sys.executable, "-c", SHIPPED, str(file)]
    plain = {name: text for name, text in environment.items() if name not in ("LD_PRELOAD", "BIREAL_OP_LIBRARY")}
    assert run(command, env=environment, cwd=ROOT) == run(command, env=plain, cwd=ROOT)


BEYOND = "import ctypes; libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p; libc.{call}"


def test_the_sanitizer_watches(environment: dict[str, str]) -> None:
    """What the tests above rely on: one byte beyond a block of malloc's ends such a process."""
    inside, beyond = (BEYOND.format(call=f"memset(ctypes.c_void_p(libc.malloc(64)), 1, {n})") for n in (64, 65))
    run([sys.executable, "-c", inside], env=environment)
    with pytest.raises(AssertionError, match="heap-buffer-overflow"):
        run([sys.executable, "-c", beyond], env=environment)


TOUCH = (
    "#include <cstdlib>\nint main(int, char** at) { volatile char* block = new char[64]; return block[atoi(at[1])]; }\n"
)


def test_the_guard_pages_watch(tmp_path: Path) -> None:
    """And a process without the sanitizer dies of one byte beyond a block of its memory."""
    require_tools("c++")
    (tmp_path / "touch.cc").write_text(TOUCH)
    run(["c++", str(tmp_path / "touch.cc"), str(HERE / "unit" / "guard_pages.cc"), "-o", str(tmp_path / "touch")])
    fates = [subprocess.run([str(tmp_path / "touch"), at], check=False).returncode for at in ("63", "64")]
    assert fates == [0xCB, -signal.SIGSEGV]
