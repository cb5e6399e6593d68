"""The block benchmark on small shapes: counts, rates and bounds, and that outputs must be equal."""

from __future__ import annotations

import json

import numpy as np
import pytest

from loadtest import kernel
from loadtest.machine import cpu_facts
from loadtest.measures.interleave import CheckedRun, ParityError, Run
from loadtest.measures.roofline import (
    Bound,
    Roofline,
    highest,
    macs_per_cycle,
    spread,
)
from loadtest.peers import openvino_runtime
from loadtest.peers.blocks import Blocks
from loadtest.peers.shapes import Shape, Shapes, load_shapes
from loadtest.records.schema import Document, Parity, Row
from service import xnor_op

CHAIN = Shape(name="64@9x7", channels=(64, 64), size=(9, 7), kernel=3, stride=1)
STRIDED = Shape(name="64-96@8s2", channels=(64, 96), size=(8, 8), kernel=3, stride=2)
EXPANSION = Shape(name="32-128@5k1", channels=(32, 128), size=(5, 5), kernel=1, stride=1)
SHAPES = Shapes(layers=3, shapes=(CHAIN, STRIDED, EXPANSION))


@pytest.fixture(scope="module")
def document() -> Document:
    return kernel.measure(kernel.options().parse_args(["--repetitions", "3", "--batch", "2"]), SHAPES)


def test_rows_are_ways_of_shapes(document: Document) -> None:
    ways = {"ort-fp32", "binary"}
    if openvino_runtime.load_openvino() is not None:
        ways.add("openvino-binary")
    assert {row.name for row in document.rows} == {f"{shape.name}/{way}" for shape in SHAPES.shapes for way in ways}
    for row in json.loads(document.model_dump_json())["rows"]:
        assert row.keys() >= {"name", "threads", "batch", "median_ms", "ratio_vs_ort_fp32", "gmac_per_s"}


def test_openvino_is_a_peer(document: Document) -> None:
    if openvino_runtime.load_openvino() is None:
        pytest.skip(openvino_runtime.MISSING)
    found = {row.name for row in document.rows if row.name.endswith("/openvino-binary")}
    assert found == {f"{shape.name}/openvino-binary" for shape in SHAPES.shapes}


def test_binary_outputs_equal_the_reference_in_every_element(document: Document) -> None:
    for row in document.rows:
        if not row.name.endswith("/ort-fp32"):
            assert row.parity.max_difference == 0.0


def test_rates_and_ratios_come_from_medians(document: Document) -> None:
    shapes = {shape.name: shape for shape in SHAPES.shapes}
    for row in document.rows:
        shape = shapes[row.name.partition("/")[0]]
        assert row.macs == shape.macs(batch=2)
        assert row.gmac_per_s == pytest.approx(row.macs / row.median_ms / 1e6, rel=1e-2, abs=0.01)
        (baseline,) = [other for other in document.rows if other.name == row.baseline]
        assert row.baseline == f"{shape.name}/ort-fp32"
        assert row.ratio_vs_ort_fp32 == pytest.approx(baseline.median_ms / row.median_ms, rel=1e-2, abs=1e-4)


def test_a_wrong_block_is_refused() -> None:
    blocks = Blocks(CHAIN, layers=2, batch=1)
    run, expected = blocks.binary("right", threads=1), blocks.expected()
    blocks.checked(run, expected)
    one_off = expected.copy()
    one_off[0, -1, -1, -1] += np.float32(1 / 16)
    with pytest.raises(ParityError, match="equality"):
        blocks.checked(Run("wrong", "none", run.call, lambda: one_off), expected)


def test_a_failed_block_is_left_out_and_the_command_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = Blocks.binary

    def wrong(self: Blocks, name: str, threads: int) -> Run:
        run = right(self, name, threads)
        return Run(name, run.engine, run.call, lambda: -run.output())

    monkeypatch.setattr(Blocks, "binary", wrong)
    monkeypatch.setattr(kernel, "load_shapes", lambda: Shapes(layers=1, shapes=(CHAIN,)))
    assert kernel.main(["--repetitions", "1", "--json", "--only", "*/binary"]) == 1
    document = Document.model_validate_json(capsys.readouterr().out)
    assert [row.name for row in document.rows] == [f"{CHAIN.name}/ort-fp32"]
    assert [(left.name, left.failed) for left in document.left_out] == [(f"{CHAIN.name}/binary", True)]


def test_a_shape_whose_baseline_fails_is_left_out_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = Blocks.float32

    def wrong(self: Blocks, name: str, threads: int) -> CheckedRun:
        if self.shape == CHAIN:
            raise ParityError(f"{name}: it is wrong.")
        return right(self, name, threads)

    monkeypatch.setattr(Blocks, "float32", wrong)
    monkeypatch.setattr(kernel, "load_shapes", lambda: Shapes(layers=1, shapes=(CHAIN, EXPANSION)))
    assert kernel.main(["--repetitions", "1", "--json", "--only", "*/binary"]) == 1
    document = Document.model_validate_json(capsys.readouterr().out)
    assert [row.name for row in document.rows] == [f"{EXPANSION.name}/ort-fp32", f"{EXPANSION.name}/binary"]
    assert [(left.name, left.failed) for left in document.left_out] == [(f"{CHAIN.name}/ort-fp32", True)]


# --- Shapes and counts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 7), (56, 56)])
def test_macs_count_taps_inside_the_image(kernel_size: int, stride: int, size: tuple[int, int]) -> None:
    shape = Shape(name="x", channels=(3, 5), size=size, kernel=kernel_size, stride=stride)
    inside = np.zeros((size[0] + 2, size[1] + 2), np.int64)
    inside[1:-1, 1:-1] = 1
    pad = kernel_size // 2
    rows, columns = shape.out_size
    taps = sum(
        inside[1 + y * stride - pad + dy, 1 + x * stride - pad + dx]
        for y in range(rows)
        for x in range(columns)
        for dy in range(kernel_size)
        for dx in range(kernel_size)
    )
    assert shape.macs(batch=2) == 2 * taps * 3 * 5


def test_the_file_of_shapes_has_the_networks_blocks() -> None:
    file = load_shapes()
    names = [shape.name for shape in file.shapes]
    assert len(set(names)) == len(names)
    assert {"64@56", "128@28", "256@14", "512@7"} <= set(names)
    assert any(shape.kernel == 1 for shape in file.shapes) and any(shape.stride == 2 for shape in file.shapes)
    for shape in file.shapes:
        channels = "-".join(str(count) for count in dict.fromkeys(shape.channels))
        size = "x".join(str(length) for length in dict.fromkeys(shape.size))
        suffix = ("k1" if shape.kernel == 1 else "") + ("s2" if shape.stride == 2 else "")
        assert shape.name == f"{channels}@{size}{suffix}"


# --- Roofline ---------------------------------------------------------------------------------------------------------


def test_rates_stand_beside_the_bounds_of_all_threads() -> None:
    row = Row(
        name="64@9x7/binary",
        threads=2,
        batch=1,
        median_ms=1e-3,
        ratio_vs_ort_fp32=9.0,
        p25_ms=1e-3,
        p75_ms=1e-3,
        min_ms=1e-3,
        n=1,
        baseline="64@9x7/ort-fp32",
        engine="none",
        parity=Parity(against="x", correlation=1, max_difference=0),
    )
    bound = Bound(macs_per_cycle=341.0, clock_hz=3e9, clock_source="measured", macs_per_s=1000e9)
    rated = kernel.with_rates(row, CHAIN, bound)
    rate = CHAIN.macs() / 1e-6 / 1e9
    assert rated.gmac_per_s == pytest.approx(rate, rel=1e-3)
    assert rated.roofline_gmac_per_s == 2000.0
    assert rated.percent_of_roofline == pytest.approx(100 * rate / 2000, rel=1e-2)
    assert rated.bound_gmac_per_s == 2046.0
    assert rated.percent_of_bound == pytest.approx(100 * rate / 2046, rel=1e-2)
    baseline = kernel.with_rates(row.model_copy(update={"name": row.baseline}), CHAIN, bound)
    assert baseline.percent_of_roofline is None and baseline.gmac_per_s is not None


def test_the_roofline_says_what_it_could_not_measure() -> None:
    nothing = Bound(macs_per_cycle=None, clock_hz=None, clock_source="nobody", macs_per_s=None)
    assert nothing.bound_macs_per_s is None
    assert "no measured roofline" in nothing.sentence() and "no clock" in nothing.sentence()


def test_the_operators_own_roofline_is_read() -> None:
    roofline = Roofline()
    roofline.sample()
    bound = roofline.take()
    assert bound.macs_per_cycle == macs_per_cycle(xnor_op.kernel_name(), cpu_facts())
    assert (bound.macs_per_s is not None) == (bound.clock_source == "measured")
    assert bound.macs_per_s is None or bound.macs_per_s > 0
    assert bound.sentence()


def test_a_neighbour_lowers_no_roofline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes of one shape, then of a run: the best counts, whatever came last and however many were slow."""
    roofline = Roofline()
    bounds = []
    for rates in ([(5e11, 2e9), (7e11, 2e9), (4e11, 3e9)], [(6e11, 2.5e9)]):
        monkeypatch.setattr(roofline, "_rates", list(rates))
        bounds.append(roofline.take())
    assert [(bound.macs_per_s, bound.clock_hz) for bound in bounds] == [(7e11, 3e9), (6e11, 2.5e9)]
    best = highest(bounds[::-1])
    assert (best.macs_per_s, best.clock_hz, best.clock_source) == (7e11, 3e9, "measured")
    assert spread(bounds) == "best probe beside a shape 600 to 700 GMAC/s a core"
    unprobed = Bound(macs_per_cycle=None, clock_hz=None, clock_source="nobody", macs_per_s=None)
    assert highest([unprobed]) == unprobed and spread([unprobed]) == ""


def test_all_rows_of_a_run_have_one_roofline(document: Document) -> None:
    rates = {row.roofline_gmac_per_s for row in document.rows if row.name.endswith("/binary")}
    assert len(rates) == 1
    (note,) = [note for note in document.notes if note.startswith("roofline: ")]
    (rate,) = rates
    assert rate is None or f"probe {rate:.0f} GMAC/s" in note


ZEN1, ZEN3, ZEN4, ZEN5 = (
    {"vendor_id": "AuthenticAMD", "cpu family": family, "model": model}
    for family, model in (("23", "1"), ("25", "1"), ("25", "17"), ("26", "2"))
)
SKYLAKE, CASCADE_LAKE, ICE_LAKE, NEXT_YEARS = (
    {"vendor_id": "GenuineIntel", "cpu family": "6", "model": model} for model in ("94", "85", "106", "9999")
)


@pytest.mark.parametrize(
    ("kernel_name", "cpu", "macs"),
    [
        ("avx2", ZEN1, None),
        ("avx2", ZEN3, 256),
        ("avx2", ZEN5, 256),
        ("avx2", SKYLAKE, 128),
        ("avx2", CASCADE_LAKE, 128),
        ("avx2", ICE_LAKE, 192),
        ("avx2", NEXT_YEARS, None),
        ("avx2", {}, None),
        ("avx512bw", CASCADE_LAKE, 256),
        ("avx512bw", ZEN5, 512),
        ("avx512vnni", CASCADE_LAKE, 309.1),
        ("avx512vnni", ZEN5, 618.3),
        ("avx512vpopcnt", ICE_LAKE, 341.3),
        ("avx512vpopcnt", ZEN4, 341.3),
        ("avx512vpopcnt", ZEN5, 682.7),
        ("avx512vpopcnt", {"vendor_id": "Another"}, None),
        ("scalar", ZEN5, None),
    ],
)
def test_the_stated_bound_is_the_cpus(kernel_name: str, cpu: dict[str, str], macs: float | None) -> None:
    stated = macs_per_cycle(kernel_name, cpu)
    assert stated == (None if macs is None else pytest.approx(macs, abs=0.05))
