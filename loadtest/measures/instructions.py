"""Instructions of one run of a network, counted by valgrind's callgrind.

Counting slows a program down fiftyfold, and most of that would be Python's start and loading the graph. Counting is
therefore enabled only around one run after a warm-up run, by a few lines of C compiled here against valgrind's header.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from loadtest.memory import child, stored
from loadtest.options import UsageError, progress
from loadtest.peers.onnx_runtime import BINARY, ORT_FP32, Workload
from loadtest.records.schema_costs import Instructions
from service import xnor_op

COUNTED_ISA = "avx2"  # valgrind does not support AVX-512 and hides it from programs
COUNTED_WAYS = (ORT_FP32, BINARY)
LIMIT_S = 600.0
NO_VALGRIND = "counting instructions needs valgrind, which is not installed (Debian, Ubuntu: apt-get install valgrind)"
_SWITCH = """
#include <valgrind/callgrind.h>
void counting_on(void) { CALLGRIND_START_INSTRUMENTATION; }
void counting_off(void) { CALLGRIND_STOP_INSTRUMENTATION; }
"""


def count_instructions(workload: Workload) -> list[Instructions]:
    """Counts the instructions of a warm run of each network, the baseline first.

    Raises:
        UsageError: valgrind or a C compiler is not installed, this CPU lacks the kernel that valgrind supports, or
            counting took too long.
    """
    if shutil.which("valgrind") is None:
        raise UsageError(NO_VALGRIND)
    if COUNTED_ISA not in xnor_op.usable_kernels():
        raise UsageError(f"counting instructions needs the kernel {COUNTED_ISA}, which this CPU cannot run")
    counts: dict[str, int] = {}
    with stored(workload, COUNTED_WAYS) as files, tempfile.TemporaryDirectory() as folder:
        switch = _build_switch(Path(folder))
        for file in files:
            progress(f"{file.name}: counting instructions")
            out = Path(folder, "callgrind.out")
            tool = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
            env = {"BIREAL_KERNEL": COUNTED_ISA, "PYTHONHASHSEED": "0"}
            try:
                child(file, 1, tool=tool, switch=switch, env=env, limit_s=LIMIT_S)
            except subprocess.TimeoutExpired as error:
                raise UsageError(
                    f"{file.name}: counting its instructions took more than {LIMIT_S:.0f} s: use an idle machine, or "
                    "leave instructions out with --parts"
                ) from error
            (total,) = re.findall(r"^totals: (\d+)$", out.read_text(), re.MULTILINE)
            counts[file.name] = int(total)
    baseline = next(iter(counts))
    return [
        Instructions(
            name=name,
            baseline=baseline,
            isa=COUNTED_ISA,
            instructions=count,
            ratio_vs_ort_fp32=round(counts[baseline] / count, 3),
        )
        for name, count in counts.items()
    ]


def _build_switch(folder: Path) -> Path:
    """Builds a library with `counting_on` and `counting_off`, which do nothing outside valgrind."""
    source, library = folder / "switch.c", folder / "switch.so"
    source.write_text(_SWITCH)
    compiler = os.environ.get("CC", "cc")
    try:
        command = [*compiler.split(), "-O1", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  arguments of our own
    except FileNotFoundError as error:
        raise UsageError(f"counting instructions needs a C compiler, but {compiler} is not installed") from error
    except subprocess.CalledProcessError as error:
        raise UsageError(f"{compiler} could not compile with valgrind's header: {error.stderr[-500:]}") from error
    return library
