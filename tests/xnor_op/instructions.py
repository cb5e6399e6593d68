"""Instruction counts of the kernels: exact figures, the same on a busy machine, to guard against regressions.

Two ways of counting, by what the tools can do. Kernels that valgrind runs: `callgrind` counts one run of each operator
on a fixed geometry (unit/count.cc). Others (valgrind knows no AVX-512): the instructions of the innermost loop that
does the work, read from the disassembly, for each instruction that counts bits, and how many of them touch the stack
because registers ran out. The NEON kernels are counted in the same way, cross-compiled.

    python -m tests.xnor_op.instructions           # print the counts of a fresh build
    python -m tests.xnor_op.instructions --write    # record them as the budget
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.xnor_op.build import build, run

BUDGET = Path(__file__).with_name("budget.yaml")
TARGETS = ("bireal_arithmetic", "bireal_op_count")
CALLGRIND_KERNELS = ("avx2", "scalar")
# Loop -> the beginning of its object file's name, and the instruction that the loop is made of (the adders of
# avx512vnni's convolution); a pattern for the mnemonic.
LOOPS = {
    "avx512vpopcnt": ("avx512vpopcnt", "vpopcnt[dq]"),
    "avx512vnni": ("avx512vnni", "vpternlogd"),
    "avx512bw": ("avx512bw", "vpshufb"),
    "avx512 pointwise int8": ("avx512vnni_pointwise", "vpdpbusd"),
    "avx512 pointwise float": ("avx512vnni_pointwise", "vfmadd231ps"),
    "avx512 stem int8": ("avx512vnni_stem", "vpdpbusd"),
    "avx512 stem int16": ("avx512vnni_stem", "vpdpwssd"),
    "avx512 stem int16, pairs": ("avx512vnni_stem_pairs", "vpdpwssd"),
    "avx512 stem float32": ("avx512vnni_stem", "vfmadd231ps"),
}
CROSS_LOOPS = {
    "neon": ("neon", r"cnt\s"),
    "neon pointwise int8": ("neon_pointwise", r"smull\s"),
    "neon pointwise float": ("neon_pointwise", r"fmla\s"),
    "neondot pointwise int8": ("neondot_pointwise", r"sdot\s"),
    "neon stem int16": ("neon_stem", r"smlal2?\s"),
    "neon stem float32": ("neon_stem", r"fmla\s"),
    "neondot stem int16": ("neondot_stem", r"udot\s"),
}
"""The same in a cross-compiled build."""

CROSS_COMPILER = "aarch64-linux-gnu-g++"
CROSS_OBJDUMP = "aarch64-linux-gnu-objdump"
CROSS = {
    "CMAKE_SYSTEM_NAME": "Linux",
    "CMAKE_SYSTEM_PROCESSOR": "aarch64",
    "CMAKE_CXX_COMPILER": CROSS_COMPILER,
}
"""CMake variables of a build for AArch64 on another machine."""

_HEAD = """\
# Instruction counts that a change may not exceed: tests/xnor_op/test_instructions.py.
# Written by `python -m tests.xnor_op.instructions --write`; commit it with the change that explains the difference.
"""
_INSTRUCTION = re.compile(r"^\s+([0-9a-f]+):\t(.*)$", re.MULTILINE)
_BRANCH = re.compile(r"(?:j[a-z]+|b\.[a-z]+|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#?\w+,)\s+([0-9a-f]+)\b")
_STACK = re.compile(r"\(%rsp|\[sp")


@dataclass(frozen=True)
class Loop:
    """An innermost loop.

    Attributes:
        work: instructions that count bits, or multiply and add.
        instructions: all of them.
        stack: those that touch the stack.
    """

    work: int
    instructions: int
    stack: int

    @property
    def per_work(self) -> float:
        """Instructions for each that does the work."""
        return self.instructions / self.work


def compiler(folder: Path) -> str:
    """Name and major version of the compiler of a build, for example `GNU 12`: counts are its work, too."""
    (file,) = folder.glob("CMakeFiles/*/CMakeCXXCompiler.cmake")
    found = dict(re.findall(r'set\(CMAKE_CXX_COMPILER_(ID|VERSION) "([^"]*)"\)', file.read_text()))
    return f"{found['ID']} {found['VERSION'].split('.')[0]}"


def callgrind_counts(folder: Path, kernel: str) -> dict[str, int]:
    """Instructions of one run of each operator, by the name that unit/count.cc gives it.

    Args:
        folder: a build of the targets.
        kernel: which kernel set, as BIREAL_KERNEL takes it.
    """
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "callgrind.out"
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        valgrind += ["--toggle-collect=bireal_measured", "--dump-after=bireal_measured"]
        env = os.environ | {"BIREAL_KERNEL": kernel}
        names = run([*valgrind, str(folder / "bireal_op_count")], env=env).splitlines()
        totals = []
        for i in range(1, len(names) + 1):
            (total,) = re.findall(r"^totals: (\d+)$", Path(f"{out}.{i}").read_text(), re.MULTILINE)
            totals.append(int(total))
    return dict(zip(names, totals, strict=True))


def main_loop(folder: Path, kernel: str, work: str, objdump: str = "objdump") -> Loop:
    """The loop in which a kernel's convolution spends its time.

    Of all innermost loops those that do the most work are it, in one copy for each place a tile can have; the one with
    the median of instructions stands for them. The roofline probe's loop is no part of a kernel.

    Args:
        folder: a build of the targets.
        kernel: the beginning of the names of its object files.
        work: pattern of the instruction that counts bits, or multiplies and adds.
        objdump: the disassembler for the build's architecture.
    """
    loops: list[Loop] = []
    for file in sorted(folder.glob(f"CMakeFiles/bireal_arithmetic.dir/kernels/{kernel}*.o")):
        listing = run([objdump, "--disassemble", "--no-show-raw-insn", "--wide", str(file)])
        for function in listing.split("\n\n"):
            if "roofline" not in function.strip().partition("\n")[0]:
                loops += innermost_loops(function, work)
    most = max(loop.work for loop in loops)
    biggest = sorted((loop for loop in loops if loop.work == most), key=lambda loop: loop.instructions)
    middle = statistics.median_low([loop.instructions for loop in biggest])
    return next(loop for loop in biggest if loop.instructions == middle)


def innermost_loops(function: str, work: str) -> list[Loop]:
    """The innermost loops of one function's disassembly that have the instruction `work`."""
    lines = [(int(address, 16), text) for address, text in _INSTRUCTION.findall(function)]
    place = {address: i for i, (address, _) in enumerate(lines)}
    spans = []
    for i, (address, text) in enumerate(lines):
        branch = _BRANCH.match(text)
        if branch and int(branch[1], 16) <= address and int(branch[1], 16) in place:
            spans.append((place[int(branch[1], 16)], i))
    loops = []
    for begin, end in spans:
        if any(begin <= b and e <= end and (b, e) != (begin, end) for b, e in spans):
            continue
        body = [text for _, text in lines[begin : end + 1]]
        count = sum(re.match(work, text) is not None for text in body)
        if count:
            loops.append(Loop(count, len(body), sum(_STACK.search(text) is not None for text in body)))
    return loops


def cross_loop(folder: Path, name: str) -> Loop:
    """A loop of `CROSS_LOOPS` in a cross-compiled build."""
    return main_loop(folder, *CROSS_LOOPS[name], objdump=CROSS_OBJDUMP)


def measure(folder: Path, cross: Path) -> dict[str, object]:
    """All counts, in the form of the budget's file.

    Args:
        folder: a build of the targets.
        cross: one for AArch64.
    """
    loops = {name: main_loop(folder, *place) for name, place in LOOPS.items()}
    loops |= {name: cross_loop(cross, name) for name in CROSS_LOOPS}
    return {
        "compiler": compiler(folder),
        "callgrind": {kernel: callgrind_counts(folder, kernel) for kernel in CALLGRIND_KERNELS},
        "inner_loop": {
            kernel: {"instructions": loop.instructions, "work": loop.work, "stack": loop.stack}
            for kernel, loop in loops.items()
        },
    }


def main() -> int:
    """Runs the program."""
    parser = argparse.ArgumentParser(description="Counts the kernels' instructions in a fresh build.")
    parser.add_argument("--write", action="store_true", help=f"record the counts in {BUDGET.name}")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as native, tempfile.TemporaryDirectory() as cross:
        found = measure(build(Path(native), TARGETS), build(Path(cross), ["bireal_arithmetic"], **CROSS))
    text = yaml.safe_dump(found, sort_keys=False, allow_unicode=True)
    if arguments.write:
        BUDGET.write_text(_HEAD + text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
