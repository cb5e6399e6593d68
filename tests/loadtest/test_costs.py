"""The costs benchmark on a tiny network: what its document says, and that its builds compute what the network does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from loadtest import costs
from loadtest.measures import instructions, modules
from loadtest.measures.throughput import images_per_s
from loadtest.memory import measure_memory
from loadtest.options import UsageError
from loadtest.peers.networks import Pair
from loadtest.peers.onnx_runtime import Workload
from loadtest.peers.photos import photos
from loadtest.peers.unfused import BEHIND, CONVOLUTION, unfused_packed
from loadtest.records.costs import cost_tables
from loadtest.records.schema_costs import Costs
from service.backends.session import SPIN_US, open_session
from service.host import usable_cpus
from service.xnor_op import library_path, usable_kernels


def pair_of(scale: float) -> Pair:
    """18 layers of ``scale`` times the channels at 64 x 64."""
    pytest.importorskip("torch", reason="networks with random weights are built with PyTorch")
    from loadtest.peers.networks_random import random_graphs

    return Pair("resnet18", "bireal18", 64, 64, lambda: random_graphs(64, 64, depth=18, num_classes=10, scale=scale))


@pytest.fixture(scope="module")
def pair() -> Pair:
    """18 layers of an eighth of the channels at 64 x 64."""
    return pair_of(0.125)


@pytest.fixture(scope="module")
def document(pair: Pair) -> Costs:
    fast = ["--processes", "1", "--windows", "1", "--seconds", "0.05", "--repetitions", "3"]
    return costs.measure(costs.options().parse_args(["--parts", "memory", "throughput", "modules", *fast]), [pair])


def test_memory_of_each_way(document: Costs) -> None:
    full, binary, int8 = document.memory
    assert [row.name for row in document.memory] == ["resnet18/ort-fp32", "bireal18/binary", "resnet18/ort-int8"]
    assert full.ratio_vs_ort_fp32 == 1
    assert binary.file_bytes < int8.file_bytes < full.file_bytes
    assert binary.weight_bytes < int8.weight_bytes < full.weight_bytes
    assert all(row.peak_bytes >= row.grew_bytes and row.trimmed for row in document.memory)


def test_the_page_says_which_memory_is_of_before_freed_pages_were_returned(document: Costs) -> None:
    assert not any("freed pages" in line for line in cost_tables(document))
    older = json.loads(document.model_dump_json())
    for row in older["memory"]:
        del row["trimmed"]
    assert any("freed pages" in line for line in cost_tables(Costs.model_validate(older)))


@pytest.mark.slow
@pytest.mark.timeout(900)  # building two networks with PyTorch, and three fresh processes
def test_memory_at_full_width_is_what_the_records_say() -> None:
    """18 layers, 1000 classes. With free pages returned, the growth is about a quarter; that of the peak an eighth."""
    pytest.importorskip("torch", reason="networks with random weights are built with PyTorch")
    from loadtest.peers.networks_random import random_graphs

    whole = Pair("resnet18", "bireal18", 224, 224, lambda: random_graphs(224, 224, depth=18))
    full, binary, _ = measure_memory(Workload(whole), processes=1)
    assert binary.file_bytes <= 3_000_000 < full.file_bytes
    assert binary.ratio_vs_ort_fp32 >= 2.5  # from machine to machine both grow by a few MB more or less
    assert full.peak_bytes >= 5 * binary.peak_bytes
    # float32 weights are held once: what the loader freed is not counted (it was twice as much again)
    assert full.weight_bytes <= full.grew_bytes < 2 * full.weight_bytes


def test_instructions_are_counted_where_modules_fail(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> list[object]:
        raise UsageError("no profile")

    monkeypatch.setattr(costs, "measure_modules", fails)
    monkeypatch.setattr(costs, "count_instructions", lambda _: [])
    found = costs.measure(costs.options().parse_args(["--parts", "modules", "instructions"]), [pair])
    assert [(left.name, left.reason) for left in found.left_out] == [("bireal18: modules", "no profile")]


def test_throughput_of_every_number_of_sessions(document: Costs) -> None:
    found = [(row.name, row.sessions) for row in document.throughput]
    numbers = range(1, usable_cpus() + 1)
    assert found == [(name, number) for name in ("resnet18/ort-fp32", "bireal18/binary") for number in numbers]
    assert all(row.scaling == 1 for row in document.throughput if row.sessions == 1)


def test_every_node_belongs_to_a_module(document: Costs) -> None:
    rows = {row.module: row for row in document.modules}
    assert not document.left_out
    assert document.settings.spin_us == SPIN_US  # as its sessions do
    assert rows.keys() >= {
        "3x3 convolutions",
        "BatchNorm, shortcut, sign or ReLU",
        "all modules",
        *modules.NAMES.values(),
    }
    parts = [row for row in document.modules if not row.unfused and row.module != "all modules"]
    assert sum(row.binary_ms for row in parts) == pytest.approx(rows["all modules"].binary_ms, abs=0.01)
    for row in document.modules:
        assert row.ratio == pytest.approx(row.full_ms / row.binary_ms, rel=0.05)


def test_a_run_that_fills_the_caches_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        """The first run and the first of each turn take a hundred times as long."""

        def __init__(self, *_: object, **__: object) -> None:
            self.events: list[dict[str, object]] = []

        def get_inputs(self) -> list[object]:
            return []

        def run(self, *_: object) -> list[float]:
            slow = len(self.events) in {0, 1, 3, 5}
            self.events.append({"cat": "Node", "name": "conv_kernel_time", "dur": 100 if slow else 1})
            return [0.0]

        def end_profiling(self) -> Path:
            path = tmp_path / "profile.json"
            path.write_text(json.dumps(self.events))
            return path

    monkeypatch.setattr(modules.ort, "InferenceSession", Session)
    profiled = modules.Profiled("net", onnx.ModelProto(), str(tmp_path), {})
    profiled.run.output()
    for _ in range(3):
        profiled.take_turn()
    assert profiled.times() == {"conv": pytest.approx(1e-6)}


def test_the_unfused_build_computes_the_same(pair: Pair) -> None:
    workload = Workload(pair)
    images = photos(2, pair.height, pair.width)
    graphs = (workload.packed, unfused_packed(workload.packed))
    sessions = [
        open_session(graph.SerializeToString(), name="net", intra_op_threads=1, op_library=library_path())
        for graph in graphs
    ]
    one, other = (session.run(None, {"image": images})[0] for session in sessions)
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)
    names = [node.name for node in graphs[1].graph.node]
    convolutions = [name for name in names if name.endswith(CONVOLUTION)]
    assert len(convolutions) == 16
    assert len([name for name in names if name.endswith(BEHIND)]) == 4 * 16 - 1  # the last needs no signs


def test_without_valgrind_it_is_said_what_installs_it(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions.shutil, "which", lambda _: None)
    found = costs.measure(costs.options().parse_args(["--parts", "instructions"]), [pair])
    assert "apt-get install valgrind" in found.left_out[0].reason and not found.left_out[0].failed


@pytest.mark.slow
@pytest.mark.timeout(900)  # starting Python in valgrind takes its time where other work runs
def test_instructions_are_those_of_one_run() -> None:
    """Of one run alone: importing Python's modules under the same tool would be a thousand million.

    Of half the channels: with an eighth, most lanes of the 1-bit network's vectors would count for nothing.
    """
    if shutil.which("valgrind") is None or instructions.COUNTED_ISA not in usable_kernels():
        pytest.skip("valgrind is not installed, or this CPU has no kernel that it runs")
    full, binary = instructions.count_instructions(Workload(pair_of(0.5)))
    assert (full.name, binary.name) == ("resnet18/ort-fp32", "bireal18/binary")
    assert 10**5 < binary.instructions < full.instructions < 10**8
    assert binary.ratio_vs_ort_fp32 == pytest.approx(full.instructions / binary.instructions, rel=0.01)


def test_a_pattern_that_matches_nothing_is_refused(pair: Pair) -> None:
    with pytest.raises(UsageError, match="bireal18"):
        costs.measure(costs.options().parse_args(["--networks", "bireal19"]), [pair])


def test_a_part_that_no_chosen_network_has_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = Pair("resnet50", "bireal50", 64, 64, lambda: pytest.fail("it is loaded all the same"))
    monkeypatch.setattr(costs, "pairs", lambda _: ("given", [deep]))
    assert costs.main(["--networks", "bireal50", "--parts", "modules", "instructions"]) == 2
    said = capsys.readouterr()
    assert "modules of *18*, *34*; instructions of *18*" in said.err and not said.out


def test_what_counts_is_a_whole_number_above_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        costs.options().parse_args(["--windows", "0"])
    assert "'0' is not a whole number above 0" in capsys.readouterr().err


def test_runs_at_the_same_time_are_counted_together() -> None:
    counts = [0, 0]

    def run(index: int) -> Callable[[], object]:
        def once() -> None:
            counts[index] += 1

        return once

    rate = images_per_s([run(0), run(1)], 0.02)
    assert min(counts) > 1
    assert 0 < rate <= sum(counts) / 0.02


@pytest.mark.timeout(60)
def test_a_run_that_fails_is_not_waited_for() -> None:
    def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        images_per_s([lambda: None, fails], 0.02)
