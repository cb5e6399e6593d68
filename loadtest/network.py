"""Times whole networks against their full-precision twins and other runtimes: `python -m loadtest.network`.

Rows are `<network>/<how it runs>`: `bireal18/binary` on the bit-packed operator, `resnet18/ort-fp32` the baseline of
all rows of 18 layers, and so on for 34, 50 and 152 layers and the depth network. The baseline and the peers take float
NCHW input with BatchNorm folded, prepared outside the timing; the served networks take uint8 images. Before timing,
every output is compared with that of the same network in standard operators, and the audit requires that every custom
operator's integers equal those of standard operators.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from loadtest.machine import describe_machine
from loadtest.measures.interleave import CheckedRun, Output, ParityError, check, interleave, summarise
from loadtest.options import UsageError, parser, progress, run_main, select, settings, table
from loadtest.peers import onnx_runtime, openvino_runtime
from loadtest.peers.networks import Pair, pairs
from loadtest.peers.onnx_runtime import BINARY, ORT_FP32, Side, Way, Workload
from loadtest.peers.photos import Images, photos
from loadtest.records.schema import UNROUNDED, Document, LeftOut, Row

WAYS: tuple[Way, ...] = (*onnx_runtime.WAYS, *openvino_runtime.WAYS, *openvino_runtime.WITH_BFLOAT16)
SETTLE = 1
AGAINST = {
    "full": "the same network in onnxruntime, unoptimised",
    "binary": "derived reference, unoptimised",
    "unrounded": UNROUNDED,
}


def measure(arguments: argparse.Namespace, networks: Sequence[Pair] | None = None) -> Document:
    """Measures everything that the options select.

    Args:
        arguments: parsed options.
        networks: networks to use instead of those selected by the options.

    Raises:
        UsageError: the options select nothing, or there is no network to measure.
        OpUnavailableError: the operator's library is missing.
    """
    weights, found = pairs(arguments.weights) if networks is None else ("given", list(networks))
    every = [Workload(pair).row_name(way) for pair in found for way in WAYS]
    selected = set(select(every, arguments.only))
    machine = describe_machine()
    left_out: list[LeftOut] = []
    ways = WAYS
    if openvino_runtime.load_openvino() is None:
        ways = onnx_runtime.WAYS
        if any("/openvino-" in name for name in selected):
            left_out.append(LeftOut(name="*/openvino-*", reason=openvino_runtime.MISSING))
    elif not openvino_runtime.computes_in_bfloat16():
        ways = tuple(way for way in WAYS if way not in openvino_runtime.WITH_BFLOAT16)
        if any("/openvino-" in name and name.endswith("default") for name in selected):
            left_out.append(LeftOut(name="*/openvino-*default", reason=openvino_runtime.NO_BFLOAT16))
    if not any(Workload(pair).row_name(way) in selected for pair in found for way in ways):
        raise UsageError(" ".join(left.reason for left in left_out))
    rows: list[Row] = []
    for pair in found:
        workload = Workload(pair)
        wanted = [way for way in ways if workload.row_name(way) in selected]
        if not wanted:
            continue
        if ORT_FP32 not in wanted:
            wanted.insert(0, ORT_FP32)
        for batch in arguments.batch:
            progress(f"{pair.binary_name}, batch {batch}: preparing")
            rows += _cell(workload, wanted, arguments.threads, batch, arguments.repetitions, left_out)
    return Document(
        benchmark="network",
        machine=machine,
        settings=settings(arguments, settle=SETTLE, weights=weights).model_copy(update={"threads_in_turns": True}),
        rows=tuple(sorted(rows, key=lambda row: (row.threads, row.batch))),
        left_out=tuple(left_out),
    )


def _cell(
    workload: Workload,
    ways: Sequence[Way],
    numbers: Sequence[int],
    batch: int,
    repetitions: int,
    left_out: list[LeftOut],
) -> list[Row]:
    """Rows of one pair for one batch size.

    All numbers of threads take turns in the same rounds: times that are divided by each other must be of the same
    minutes, or a disturbance of one of them becomes a speedup.
    """
    images = photos(batch, workload.pair.height, workload.pair.width)
    oracles = {side: workload.oracle(side, images) for side in dict.fromkeys(way.side for way in ways)}
    runs = {threads: _checked_runs(workload, ways, threads, images, oracles, left_out) for threads in numbers}
    timed = [
        replace(checked, run=replace(checked.run, name=_turn(threads, checked)))
        for threads, found in runs.items()
        for checked in found
    ]
    progress(f"{workload.pair.binary_name}, batch {batch}: timing {len(timed)} rows")
    seconds = interleave(timed, repetitions, settle=SETTLE)
    rows: list[Row] = []
    for threads, found in runs.items():
        own = {checked.run.name: seconds[_turn(threads, checked)] for checked in found}
        if found:
            baseline = workload.row_name(ORT_FP32)
            rows += summarise(found, own, baseline=baseline, threads=threads, batch=batch)
    return rows


def _turn(threads: int, checked: CheckedRun) -> str:
    return f"{checked.run.name}, threads {threads}"


def _checked_runs(
    workload: Workload,
    ways: Sequence[Way],
    threads: int,
    images: Images,
    oracles: Mapping[Side, Output],
    left_out: list[LeftOut],
) -> list[CheckedRun]:
    """The ways whose outputs are right, with one number of threads; none without the baseline."""
    runs: list[CheckedRun] = []
    for way in ways:
        try:
            runs.append(checked_run(workload, way, threads, images, oracles[way.side]))
        except ParityError as error:
            left_out.append(LeftOut(name=workload.row_name(way), reason=str(error), failed=True))
            if way is ORT_FP32:  # ratios need the baseline
                return []
    return runs


def checked_run(workload: Workload, way: Way, threads: int, images: Images, oracle: Output) -> CheckedRun:
    """Prepares a way to run a network and compares its output with the oracle's.

    Raises:
        ParityError: the outputs disagree or, for the bit-packed operator, an operator is inexact.
    """
    exact = workload.audit(threads, images) if way is BINARY else None
    run = way.open(workload, threads, images)
    return check(run, oracle, against=AGAINST[way.side], min_correlation=way.min_correlation, exact_operators=exact)


def options() -> argparse.ArgumentParser:
    """The program's options."""
    description = "Times whole networks against their full-precision twins and other runtimes."
    result = parser("loadtest.network", description, repetitions=30)
    result.add_argument(
        "--weights",
        choices=("auto", "random", "zoo"),
        default="auto",
        help="random: needs PyTorch; zoo: the models of models/zoo; auto (default): random if PyTorch is installed",
    )
    return result


def measure_options(argv: Sequence[str]) -> Document:
    """Measures what the command-line options select; see `measure`."""
    return measure(options().parse_args(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program."""
    return run_main(measure, options().parse_args(argv), table)


if __name__ == "__main__":
    sys.exit(main())
