"""The kernels' instruction counts against the recorded budget: a regression shows on any machine, busy or not.

The counts are the compiler's work, too: with the compiler of the record a count may grow by `SAME`, with another one
by `OTHER`. Record an intended change with `python -m tests.xnor_op.instructions --write`.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.xnor_op import instructions
from tests.xnor_op.build import build, require_tools

SAME = 1.02
OTHER = 1.3
BUDGET: dict[str, Any] = yaml.safe_load(instructions.BUDGET.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain build of the arithmetic."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("the budget is for x86-64")
    require_tools("cmake", "c++", "objdump", "valgrind")
    return build(tmp_path_factory.mktemp("counted"), instructions.TARGETS)


@pytest.fixture(scope="module")
def cross(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, cross-compiled for AArch64."""
    require_tools("cmake", instructions.CROSS_COMPILER, instructions.CROSS_OBJDUMP)
    return build(tmp_path_factory.mktemp("cross"), ["bireal_arithmetic"], **instructions.CROSS)


def factor(folder: Path) -> float:
    """By what factor a build's counts may exceed the budget."""
    return SAME if instructions.compiler(folder) == BUDGET["compiler"] else OTHER


def assert_within_budget(kernel: str, loop: instructions.Loop, allowed: float) -> None:
    """Compares a kernel's inner loop with the budget."""
    budget = instructions.Loop(**BUDGET["inner_loop"][kernel])
    assert loop.per_work <= budget.per_work * allowed, (loop, budget)
    assert loop.stack <= budget.stack, (loop, budget)


@pytest.mark.parametrize("kernel", instructions.CALLGRIND_KERNELS)
def test_operators_stay_within_their_budget(folder: Path, kernel: str) -> None:
    budget = BUDGET["callgrind"][kernel]
    counts = instructions.callgrind_counts(folder, kernel)
    assert counts.keys() == budget.keys()
    assert not {name: (count, budget[name]) for name, count in counts.items() if count > budget[name] * factor(folder)}


@pytest.mark.parametrize("name", instructions.LOOPS)
def test_inner_loops_stay_within_their_budget(folder: Path, name: str) -> None:
    assert_within_budget(name, instructions.main_loop(folder, *instructions.LOOPS[name]), factor(folder))


@pytest.mark.parametrize("name", instructions.CROSS_LOOPS)
def test_inner_loops_on_aarch64_stay_within_their_budget(cross: Path, name: str) -> None:
    assert_within_budget(name, instructions.cross_loop(cross, name), factor(cross))


LISTING = """\
0000000000000000 <tile>:
   0:\tvpxord %zmm0,%zmm1,%zmm2
   6:\tvpopcntd %zmm2,%zmm2
   c:\tvpaddd %zmm2,%zmm3,%zmm3
  12:\tvmovdqa64 %zmm3,0x40(%rsp)
  18:\tcmp    %eax,%ebx
  1a:\tjl     6 <tile+0x6>
  1c:\tvpopcntd %zmm2,%zmm2
  22:\tjne    0 <tile>
  24:\tjmp    30 <tile+0x30>
"""


def test_loops_are_read_from_a_disassembly() -> None:
    assert instructions.innermost_loops(LISTING, "vpopcnt[dq]") == [instructions.Loop(work=1, instructions=5, stack=1)]
    assert instructions.innermost_loops(LISTING, "vpshufb") == []
