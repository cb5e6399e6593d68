"""Memory of a network and its twin: file size, weights, and growth of a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from loadtest.options import UsageError, progress
from loadtest.peers.onnx_runtime import BINARY, ORT_FP32, ORT_INT8, Way, Workload
from loadtest.records.schema_costs import Memory
from loadtest.stack import ROOT
from service import xnor_op
from service.backends.weights import count_weights

WAYS = (ORT_FP32, BINARY, ORT_INT8)
RUNS = 3


@dataclass(frozen=True)
class Stored:
    """A network on disk.

    Attributes:
        name: name of the row.
        path: file of the graph.
        weight_bytes: size of one copy of its weights at run time.
        library: library of custom operators, `-` for none.
    """

    name: str
    path: Path
    weight_bytes: int
    library: str


@contextmanager
def stored(workload: Workload, ways: Sequence[Way]) -> Iterator[list[Stored]]:
    """Writes the graphs of the given ways into a folder that exists for the duration of the context."""
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for way in ways:
            model = {ORT_FP32: lambda: workload.full_parts[1], ORT_INT8: lambda: workload.full_int8}.get(
                way, lambda: workload.packed
            )()
            path = Path(folder, f"{way.name}.onnx")
            onnx.save(model, path)
            library = str(xnor_op.library_path()) if way is BINARY else "-"
            found.append(Stored(workload.row_name(way), path, _weight_bytes(way, model), library))
        yield found


def _weight_bytes(way: Way, model: onnx.ModelProto) -> int:
    """Size of one copy of the weights at run time."""
    if way is ORT_INT8:  # quantised constants in their own types, the rest in float32
        return sum(
            int(np.prod(tensor.dims, dtype=np.int64)) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            for tensor in model.graph.initializer
        )
    count = count_weights(model)
    return count.binary_bytes + count.real_bytes


def measure_memory(workload: Workload, processes: int) -> list[Memory]:
    """Measures the rows of a pair, the baseline first; the ways take turns.

    Args:
        workload: the pair.
        processes: fresh processes per row.
    """
    with stored(workload, WAYS) as files:
        progress(f"{workload.pair.binary_name}: memory of {len(files) * processes} processes")
        grown: dict[str, list[tuple[int, int]]] = {file.name: [] for file in files}
        for _ in range(processes):
            for file in files:
                said = json.loads(child(file, RUNS))
                peak = max(said["peak"], said["after"]) - said["before"]
                grown[file.name].append((said["after"] - said["before"], peak))
        sizes = {file.name: file.path.stat().st_size for file in files}
    baseline = files[0].name
    medians = {name: np.median(np.array(values), axis=0).astype(int) for name, values in grown.items()}
    return [
        Memory(
            name=file.name,
            baseline=baseline,
            file_bytes=sizes[file.name],
            weight_bytes=file.weight_bytes,
            grew_bytes=int(medians[file.name][0]),
            peak_bytes=int(medians[file.name][1]),
            n=processes,
            ratio_vs_ort_fp32=round(float(medians[baseline][0] / medians[file.name][0]), 3),
            trimmed=True,
        )
        for file in files
    ]


def child(
    file: Stored,
    runs: int,
    *,
    tool: Sequence[str] = (),
    switch: Path | None = None,
    env: Mapping[str, str] | None = None,
    limit_s: float | None = None,
) -> str:
    """Standard output of a fresh process that loads and runs a network.

    Args:
        file: the network.
        runs: number of runs.
        tool: command that wraps the process, such as valgrind.
        switch: library that turns counting on and off, see `loadtest.measures.instructions`.
        env: additional environment variables.
        limit_s: timeout in seconds.

    Raises:
        UsageError: the process failed.
        subprocess.TimeoutExpired: it took too long.
    """
    command = [sys.executable, "-m", "loadtest.measures.memory_child", str(file.path), file.library, str(runs)]
    if switch is not None:
        command.append(str(switch))
    done = subprocess.run(  # noqa: S603  no shell, and arguments of our own
        [*tool, *command],
        cwd=ROOT,
        env=os.environ | dict(env or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=limit_s,
    )
    if done.returncode != 0:
        raise UsageError(f"{file.name} could not be run in a separate process: {done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]
