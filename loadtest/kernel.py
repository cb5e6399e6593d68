"""Times single blocks against float convolutions of the same shape and OpenVINO: `python -m loadtest.kernel`.

Rows are `<shape>/<how it runs>`, with the shapes of loadtest/peers/shapes.yaml. Times are per block. Rates count only
taps inside the image and are compared with the operator's roofline (loadtest/measures/roofline.py), the best of all
probes between the runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from loadtest.machine import describe_machine
from loadtest.measures.interleave import CheckedRun, ParityError, interleave, summarise
from loadtest.measures.roofline import Bound, Roofline, highest, spread
from loadtest.options import UsageError, parser, progress, run_main, select, settings, table
from loadtest.peers import openvino_runtime
from loadtest.peers.blocks import Blocks
from loadtest.peers.shapes import Shape, Shapes, load_shapes
from loadtest.records.merge import ROOFLINE
from loadtest.records.schema import Document, LeftOut, Row

BASELINE = "ort-fp32"
WAYS = (BASELINE, "binary", "openvino-binary")
SETTLE = 1


def measure(arguments: argparse.Namespace, shapes: Shapes | None = None) -> Document:
    """Measures everything that the options select.

    Args:
        arguments: parsed options.
        shapes: shapes to use instead of those in the file.

    Raises:
        UsageError: the options select nothing.
        OpUnavailableError: the operator's library is missing.
    """
    file = load_shapes() if shapes is None else shapes
    selected = select([f"{shape.name}/{way}" for shape in file.shapes for way in WAYS], arguments.only)
    machine = describe_machine()
    left_out: list[LeftOut] = []
    if openvino_runtime.load_openvino() is None and any(name.endswith("/openvino-binary") for name in selected):
        left_out.append(LeftOut(name="*/openvino-binary", reason=openvino_runtime.MISSING))
        selected = [name for name in selected if not name.endswith("/openvino-binary")]
    if not selected:
        raise UsageError(openvino_runtime.MISSING)
    measured: list[tuple[Row, Shape]] = []
    roofline = Roofline()
    bounds: list[Bound] = []
    for threads in arguments.threads:
        for batch in arguments.batch:
            for shape in file.shapes:
                ways = [way for way in WAYS if way == BASELINE or f"{shape.name}/{way}" in selected]
                if not any(name.startswith(f"{shape.name}/") for name in selected):
                    continue
                progress(f"{shape.name}, threads {threads}, batch {batch}")
                blocks = Blocks(shape, file.layers, batch)
                runs = _checked(blocks, ways, threads, left_out)
                if not runs:
                    continue
                seconds = interleave(runs, arguments.repetitions, settle=SETTLE, each_round=roofline.sample)
                one = {name: samples / file.layers for name, samples in seconds.items()}
                baseline = f"{shape.name}/{BASELINE}"
                bounds.append(roofline.take())
                rows = summarise(runs, one, baseline=baseline, threads=threads, batch=batch)
                measured += [(row, shape) for row in rows]
    notes = [f"a run is {file.layers} blocks; times are of one"]
    if bounds:
        notes.append(f"{ROOFLINE}{'; '.join(filter(None, (highest(bounds).sentence(), spread(bounds))))}")
    return Document(
        benchmark="kernel",
        machine=machine,
        settings=settings(arguments, settle=SETTLE, weights="random"),
        rows=tuple(with_rates(row, shape, highest(bounds)) for row, shape in measured),
        left_out=tuple(left_out),
        notes=tuple(notes),
    )


def _checked(blocks: Blocks, ways: Sequence[str], threads: int, left_out: list[LeftOut]) -> list[CheckedRun]:
    """The ways to run a shape's blocks whose outputs are right; none without the baseline."""
    expected = blocks.expected()
    runs = []
    for way in ways:
        name = f"{blocks.shape.name}/{way}"
        try:
            if way == BASELINE:
                runs.append(blocks.float32(name, threads))
            else:
                run = blocks.binary(name, threads) if way == "binary" else blocks.openvino(name, threads)
                runs.append(blocks.checked(run, expected))
        except ParityError as error:
            left_out.append(LeftOut(name=name, reason=str(error), failed=True))
            if way == BASELINE:  # ratios need the baseline
                return []
    return runs


def with_rates(row: Row, shape: Shape, bound: Bound) -> Row:
    """The row with its multiply-accumulates per second; for binary rows also as shares of the two bounds."""
    macs = shape.macs(row.batch)
    rate = macs / (row.median_ms * 1e6)  # GMAC/s
    facts: dict[str, float | None] = {"macs": macs, "gmac_per_s": round(rate, 2)}
    if not row.name.endswith(f"/{BASELINE}"):
        for limit, name, share in (
            (bound.macs_per_s, "roofline_gmac_per_s", "percent_of_roofline"),
            (bound.bound_macs_per_s, "bound_gmac_per_s", "percent_of_bound"),
        ):
            if limit is not None:
                all_threads = limit * row.threads / 1e9
                facts |= {name: round(all_threads, 1), share: round(100 * rate / all_threads, 2)}
    return row.model_copy(update=facts)


def options() -> argparse.ArgumentParser:
    """The program's options."""
    description = "Times single binary blocks against float convolutions of the same shape."
    return parser("loadtest.kernel", description, repetitions=40)


def measure_options(argv: Sequence[str]) -> Document:
    """Measures what the command-line options select; see `measure`."""
    return measure(options().parse_args(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program."""
    return run_main(measure, options().parse_args(argv), table)


if __name__ == "__main__":
    sys.exit(main())
