"""The network benchmark on tiny networks: what its document says, and that nothing is timed unchecked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from loadtest import network
from loadtest.measures.interleave import CheckedRun, ParityError, Run, check, interleave, summarise
from loadtest.options import UsageError
from loadtest.peers import networks, onnx_runtime, openvino_runtime
from loadtest.peers.graph import FLOAT_INPUT, channels_first, split_front, widen_constants
from loadtest.peers.networks import Pair, zoo_pairs
from loadtest.peers.onnx_runtime import Way, Workload, run_front
from loadtest.peers.photos import photos
from loadtest.records.schema import UNROUNDED, Document
from service import xnor_op
from service.backends.dialect import PackedGraph
from service.backends.session import SPIN_US, open_session
from tests.backends.graphs import bottleneck_like
from tests.tiny_zoo import write_zoo

ISSUE_KEYS = {"name", "threads", "batch", "median_ms", "ratio_vs_ort_fp32"}


@pytest.fixture(scope="module")
def pair() -> Pair:
    """18 layers of an eighth of the channels at 64 x 64, built as the benchmark builds its networks."""
    pytest.importorskip("torch", reason="networks with random weights are built with PyTorch")
    from loadtest.peers.networks_random import random_graphs

    return Pair("resnet18", "bireal18", 64, 64, lambda: random_graphs(64, 64, depth=18, num_classes=10, scale=0.125))


@pytest.fixture(scope="module")
def document(pair: Pair) -> Document:
    arguments = network.options().parse_args(["--repetitions", "3", "--batch", "1", "2"])
    return network.measure(arguments, [pair])


def test_rows_are_those_that_the_names_promise(document: Document) -> None:
    expected = {
        "resnet18/ort-fp32",
        "resnet18/ort-int8",
        "bireal18/binary",
        "bireal18/reference",
    }
    expected |= peers_of_openvino()
    for batch in (1, 2):
        assert {row.name for row in document.rows if row.batch == batch} == expected
    assert not [left for left in document.left_out if left.failed]


def test_openvino_is_a_peer(document: Document) -> None:
    if openvino_runtime.load_openvino() is None:
        pytest.skip(openvino_runtime.MISSING)
    found = {row.name for row in document.rows if "/openvino-" in row.name}
    assert found == peers_of_openvino()


def peers_of_openvino() -> set[str]:
    if openvino_runtime.load_openvino() is None:
        return set()
    expected = {"resnet18/openvino-fp32", "resnet18/openvino-int8", "bireal18/openvino-binary"}
    if "avx512_bf16" in Path("/proc/cpuinfo").read_text():
        expected |= {"resnet18/openvino-default", "bireal18/openvino-binary-default"}
    return expected


def test_openvinos_default_is_a_row_only_where_it_differs(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    if openvino_runtime.load_openvino() is None:
        pytest.skip(openvino_runtime.MISSING)
    monkeypatch.setattr(openvino_runtime, "computes_in_bfloat16", lambda: False)
    chosen = ["--repetitions", "1", "--only", "*default"]
    found = network.measure(network.options().parse_args([*chosen, "--only", "*/binary"]), [pair])
    assert [(left.name, left.failed) for left in found.left_out] == [("*/openvino-*default", False)]
    assert [row.name for row in found.rows] == ["resnet18/ort-fp32", "bireal18/binary"]
    with pytest.raises(UsageError, match="float32 by default on this CPU"):
        network.measure(network.options().parse_args(chosen), [pair])


def test_rows_have_the_agreed_keys_and_a_spread(document: Document) -> None:
    for row in json.loads(document.model_dump_json())["rows"]:
        assert row.keys() >= ISSUE_KEYS
        assert row["min_ms"] <= row["p25_ms"] <= row["median_ms"] <= row["p75_ms"]
        assert row["n"] == 3


def test_header_names_cpu_kernel_versions_commit_and_date(document: Document) -> None:
    machine = document.machine
    assert machine.cpu and machine.date.endswith("+00:00")
    assert machine.isa == xnor_op.kernel_name()
    assert machine.versions.keys() >= {"python", "onnxruntime", "numpy"}
    assert document.settings.threads == (1,) and document.settings.batch == (1, 2)
    assert document.settings.spinning is False
    assert document.settings.spin_us == SPIN_US and document.settings.batch_parts


def test_ratios_are_those_of_medians(document: Document) -> None:
    for row in document.rows:
        assert row.baseline == "resnet18/ort-fp32"
        (baseline,) = [other for other in document.rows if (other.name, other.batch) == (row.baseline, row.batch)]
        assert row.ratio_vs_ort_fp32 == pytest.approx(baseline.median_ms / row.median_ms, rel=1e-3, abs=1e-4)


def test_every_row_was_compared_with_the_reference(document: Document, pair: Pair) -> None:
    operators = len(PackedGraph(pair.graphs[1]).custom_nodes)
    for row in document.rows:
        assert "unoptimised" in row.parity.against
        assert row.parity.correlation >= onnx_runtime.EIGHT_BITS
        assert row.parity.exact_operators == (operators if row.name.endswith("/binary") else None)


def test_the_document_survives_its_own_schema(document: Document) -> None:
    assert Document.model_validate_json(document.model_dump_json(exclude_none=True)) == document


def test_a_wrong_output_is_never_timed(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def open_wrong(workload: Workload, threads: int, images: networks.Images) -> Run:
        right = onnx_runtime.BINARY.open(workload, threads, images)
        return Run("bireal18/wrong", "wrong", lambda: calls.append(1), lambda: right.output()[:, ::-1])

    wrong = Way("wrong", "binary", onnx_runtime.SIGN_FLIPS, open_wrong)
    ways = (onnx_runtime.ORT_FP32, onnx_runtime.BINARY, wrong)
    monkeypatch.setattr(onnx_runtime, "WAYS", ways)
    monkeypatch.setattr(network, "WAYS", ways)
    monkeypatch.setattr(openvino_runtime, "load_openvino", lambda: None)
    found = network.measure(network.options().parse_args(["--repetitions", "2"]), [pair])
    assert [row.name for row in found.rows] == ["resnet18/ort-fp32", "bireal18/binary"]
    (left,) = found.left_out
    assert left.failed and left.name == "bireal18/wrong" and "correlation" in left.reason
    assert not calls


def test_all_numbers_of_threads_take_turns_in_the_same_rounds(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[list[str]] = []

    def timed(runs: list[CheckedRun], repetitions: int, **options: int) -> dict[str, np.ndarray]:
        rounds.append([checked.run.name for checked in runs])
        found = interleave(runs, repetitions, **options)
        return {name: 0 * samples + (0.002 if "threads 1" in name else 0.001) for name, samples in found.items()}

    monkeypatch.setattr(network, "interleave", timed)
    options = ["--threads", "1", "2", "--repetitions", "1", "--only", "bireal18/binary"]
    found = network.measure(network.options().parse_args(options), [pair])
    assert rounds == [
        [f"{name}, threads {threads}" for threads in (1, 2) for name in ("resnet18/ort-fp32", "bireal18/binary")]
    ]
    assert [(row.name, row.threads, row.median_ms) for row in found.rows] == [
        ("resnet18/ort-fp32", 1, 2.0),
        ("bireal18/binary", 1, 2.0),
        ("resnet18/ort-fp32", 2, 1.0),
        ("bireal18/binary", 2, 1.0),
    ]
    assert found.settings.threads_in_turns


def test_without_openvino_its_rows_are_left_out_and_it_says_so(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runtime, "load_openvino", lambda: None)
    arguments = network.options().parse_args(["--repetitions", "1", "--only", "bireal18/*binary"])
    found = network.measure(arguments, [pair])
    assert [row.name for row in found.rows] == ["resnet18/ort-fp32", "bireal18/binary"]
    assert [(left.name, left.failed) for left in found.left_out] == [("*/openvino-*", False)]
    assert "bench" in found.left_out[0].reason


def test_a_command_that_can_measure_none_of_its_rows_fails(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(networks, "random_pairs", lambda: [pair])
    monkeypatch.setattr(openvino_runtime, "load_openvino", lambda: None)
    assert network.main(["--repetitions", "1", "--only", "*/openvino-*", "--json"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"error: {openvino_runtime.MISSING}\n")


# --- The command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_one_json_document_and_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(networks, "ZOO", write_zoo(tmp_path / "zoo"))
    out = tmp_path / "result.json"
    chosen = ["--weights", "zoo", "--only", "tiny-bireal/*", "--only", "tiny-colours/*", "--repetitions", "2"]
    assert network.main([*chosen, "--json", "--out", str(out)]) == 0
    printed = Document.model_validate_json(capsys.readouterr().out)
    assert printed == Document.model_validate_json(out.read_text())
    assert printed.settings.weights == "zoo"
    assert {row.name for row in printed.rows} >= {
        "tiny-colours/ort-fp32",
        "tiny-bireal/binary",
        "tiny-bireal/reference",
    }


def test_a_file_that_cannot_be_written_costs_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], document: Document
) -> None:
    measured: list[object] = []

    def measure(arguments: object) -> Document:
        measured.append(arguments)
        gone.rmdir()  # while it measures
        return document

    monkeypatch.setattr(network, "measure", measure)
    (gone := tmp_path / "gone").mkdir()
    for nowhere in (tmp_path / "missing" / "x.json", tmp_path):
        with pytest.raises(SystemExit) as ended:
            network.main(["--out", str(nowhere)])
        assert ended.value.code == 2 and not measured
        assert f"{nowhere} cannot be written" in capsys.readouterr().err
    assert network.main(["--json", "--out", str(gone / "x.json")]) == 2
    said = capsys.readouterr()
    assert Document.model_validate_json(said.out) == document and "x.json" in said.err


def test_without_pytorch_and_zoo_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails, as where it is not installed
    monkeypatch.setattr(networks, "ZOO", tmp_path)
    for weights in ("auto", "random"):
        assert network.main(["--weights", weights]) == 2
        assert "make setup" in capsys.readouterr().err


def test_a_pattern_that_matches_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(networks, "ZOO", write_zoo(tmp_path))
    assert network.main(["--weights", "zoo", "--only", "bireal19/*"]) == 2
    message = capsys.readouterr().err
    assert "bireal19/*" in message and "tiny-bireal/binary" in message


def test_zoo_pairs_are_binary_models_with_their_twins(tmp_path: Path) -> None:
    found = {(pair.binary_name, pair.full_name, pair.height, pair.width) for pair in zoo_pairs(write_zoo(tmp_path))}
    assert found == {("tiny-bireal", "tiny-colours", 32, 32), ("tiny-bireal-depth", "tiny-ramp", 24, 80)}


# --- Timing -----------------------------------------------------------------------------------------------------------


def _checked(name: str, log: list[str]) -> CheckedRun:
    run = Run(name, "none", lambda: log.append(name), lambda: np.zeros(1, np.float32))
    return check(run, np.zeros(1, np.float32), against="zeros", min_correlation=1.0)


def test_runs_take_turns_and_settle_first() -> None:
    log: list[str] = []
    seconds = interleave([_checked("a", log), _checked("b", log)], 3, settle=1, each_round=lambda: log.append("|"))
    assert "".join(log) == "|aabb|bbaa|aabb"
    assert {name: len(samples) for name, samples in seconds.items()} == {"a": 3, "b": 3}


def test_a_summary_is_of_medians_and_quartiles() -> None:
    runs = [_checked("base", []), _checked("row", [])]
    seconds = {"base": np.array([0.004, 0.008, 0.1]), "row": np.array([0.001, 0.002, 0.003])}
    base, row = summarise(runs, seconds, baseline="base", threads=2, batch=4)
    assert (base.median_ms, base.ratio_vs_ort_fp32) == (8.0, 1.0)
    assert (row.median_ms, row.ratio_vs_ort_fp32) == (2.0, 4.0)
    assert (row.p25_ms, row.p75_ms, row.min_ms, row.n) == (1.5, 2.5, 1.0, 3)
    assert (row.threads, row.batch, row.baseline) == (2, 4, "base")


@pytest.mark.parametrize(
    "output",
    [np.array([1.0, 2.0]), np.array([1.0, np.nan, 3.0]), np.array([3.0, 2.0, 1.0]), np.array([2.0, 2.0, 2.0])],
    ids=["shape", "not finite", "reversed", "constant"],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
def test_the_check_refuses(output: np.ndarray) -> None:
    run = Run("row", "none", lambda: None, lambda: output.astype(np.float32))
    with pytest.raises(ParityError, match="row"):
        check(run, np.array([1.0, 2.0, 3.0], np.float32), against="the truth", min_correlation=0.9)


def test_the_check_can_demand_equality() -> None:
    expected = np.arange(4, dtype=np.float32)
    close = Run("row", "none", lambda: None, lambda: expected + np.float32(1e-6))
    parity = check(close, expected, against="truth", min_correlation=0.9999).parity
    assert parity.correlation == pytest.approx(1.0) and 0 < parity.max_difference < 1e-5
    with pytest.raises(ParityError, match="equality"):
        check(close, expected, against="truth", min_correlation=1.0)


# --- Graph surgery ----------------------------------------------------------------------------------------------------


def test_front_and_nchw_body_compute_what_the_reference_does(rng: np.random.Generator) -> None:
    packed = bottleneck_like(3, exact=True)
    workload = Workload(Pair("full", "binary", 40, 56, lambda: (packed, packed)))
    images = rng.integers(0, 256, (2, 40, 56, 3), dtype=np.uint8)
    front, body = workload.unrounded_parts
    assert [node.op_type for node in body.graph.node].count("MatMul") == 0
    x = run_front(front, images)
    assert x.shape == (2, 3, 40, 56)
    session = open_session(body.SerializeToString(), name="body", intra_op_threads=1, optimise=False)
    np.testing.assert_allclose(session.run(None, {FLOAT_INPUT: x})[0], workload.oracle("binary", images), rtol=1e-5)


def test_a_peer_of_the_binary_network_emulates_none_of_our_rounding(rng: np.random.Generator) -> None:
    packed = bottleneck_like(3, pointwise="int8")
    workload = Workload(Pair("full", "binary", 40, 56, lambda: (packed, packed)))
    front, body = workload.unrounded_parts
    rounding = {"Abs", "ReduceMax", "Round", "Div"}
    assert rounding <= {node.op_type for node in workload.reference.graph.node}
    assert not rounding & {node.op_type for node in body.graph.node}
    images = rng.integers(0, 256, (2, 40, 56, 3), dtype=np.uint8)
    session = open_session(body.SerializeToString(), name="body", intra_op_threads=1, optimise=False)
    output = session.run(None, {FLOAT_INPUT: run_front(front, images)})[0]
    assert not np.array_equal(output, workload.oracle("binary", images)), "the served network rounds"
    expected = workload.oracle("unrounded", images)
    assert np.corrcoef(output.ravel(), expected.ravel())[0, 1] > onnx_runtime.SIGN_FLIPS


def test_openvino_is_given_the_network_without_our_rounding(document: Document) -> None:
    if openvino_runtime.load_openvino() is None:
        pytest.skip(openvino_runtime.MISSING)
    found = {row.name: row.parity for row in document.rows}
    assert found["bireal18/openvino-binary"].against == UNROUNDED
    assert found["bireal18/reference"].against != UNROUNDED


def test_the_split_leaves_a_graph_without_a_front_alone() -> None:
    model = bottleneck_like(4)
    reference = Workload(Pair("full", "binary", 40, 56, lambda: (model, model))).reference
    front, body = split_front(reference)
    assert {node.op_type for node in front.graph.node} <= {"Cast", "Transpose", "Sub", "Identity"}
    assert len(body.graph.node) + len(front.graph.node) - 1 == len(reference.graph.node)
    again, rest = split_front(widen_constants(channels_first(body)))
    assert [node.op_type for node in again.graph.node] == ["Identity"]
    assert rest.graph.node[0].op_type == "Conv"


def test_photos_are_smooth_and_repeatable() -> None:
    first, second = photos(2, 48, 80), photos(2, 48, 80)
    assert first.shape == (2, 48, 80, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    steps = np.abs(np.diff(first.astype(np.int32), axis=2)).mean()
    assert 0 < steps < first.std() / 4
