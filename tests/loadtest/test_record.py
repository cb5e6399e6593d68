"""docs/benchmarks is drawn from its recorded files alone, and still fits them."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from loadtest import record
from loadtest.options import UsageError
from loadtest.records.merge import merged, merged_costs
from loadtest.records.plots import Bar, Group, bar_chart
from loadtest.records.schema import UNROUNDED, Document
from loadtest.records.schema_costs import Costs
from loadtest.records.tables import shown
from loadtest.records.views import Recorded

MACHINE = {
    "cpu": "Test CPU @ 3 GHz",
    "cpu_id": "Vendor 1 2 3",
    "cpu_flags": ["avx2"],
    "isa": "avx2",
    "usable_kernels": ["avx2", "scalar"],
    "usable_cpus": 2,
    "load_1m": 0.01,
    "system": "Linux",
    "versions": {"python": "3.11", "onnxruntime": "1.22"},
    "commit": "0123456789ab",
    "date": "2026-01-02T03:04:05+00:00",
}
SETTINGS = {"threads": [1], "batch": [1], "repetitions": 3, "settle": 1, "weights": "random"}


def _row(name: str, baseline: str, median_ms: float, ratio: float, **facts: float) -> dict[str, object]:
    times = {"median_ms": median_ms, "p25_ms": median_ms * 0.9, "p75_ms": median_ms * 1.1, "min_ms": median_ms * 0.8}
    parity = {"against": "reference", "correlation": 1.0, "max_difference": 0.0}
    row = {"name": name, "threads": 1, "batch": 1, **times, "ratio_vs_ort_fp32": ratio, "n": 3}
    return {**row, "baseline": baseline, "engine": "some engine", "parity": parity, **facts}


def _memory(name: str, size: int, ratio: float) -> dict[str, object]:
    sizes = {"file_bytes": size, "weight_bytes": size, "grew_bytes": 3 * size, "peak_bytes": 4 * size}
    return {"name": name, "baseline": "resnet18/ort-fp32", "n": 3, "ratio_vs_ort_fp32": ratio, **sizes}


def _recorded(date: str = "2026-01-02T03:04:05+00:00", cpu_id: str = "Vendor 1 2 3") -> Recorded:
    head = {"machine": {**MACHINE, "date": date, "cpu_id": cpu_id}, "settings": SETTINGS}
    networks = [
        _row("resnet18/ort-fp32", "resnet18/ort-fp32", 25.0, 1.0),
        _row("bireal18/binary", "resnet18/ort-fp32", 2.5, 10.0),
    ]
    rates = {"gmac_per_s": 900.0, "roofline_gmac_per_s": 1000.0, "percent_of_roofline": 90.0}
    blocks = [
        _row("64@56/ort-fp32", "64@56/ort-fp32", 1.4, 1.0, gmac_per_s=80.0),
        _row("64@56/binary", "64@56/ort-fp32", 0.14, 10.0, **rates),
        _row("64@56/openvino-binary", "64@56/ort-fp32", 0.28, 5.0, gmac_per_s=450.0),
    ]
    left_out = [{"name": "*/openvino-*", "reason": "not installed"}]
    costs = {
        "memory": [_memory("resnet18/ort-fp32", 47_000_000, 1.0), _memory("bireal18/binary", 3_000_000, 7.5)],
        "instructions": [
            {
                "name": name,
                "baseline": "resnet18/ort-fp32",
                "isa": "avx2",
                "instructions": n,
                "ratio_vs_ort_fp32": ratio,
            }
            for name, n, ratio in (("resnet18/ort-fp32", 900_000_000, 1.0), ("bireal18/binary", 100_000_000, 9.0))
        ],
        "throughput": [
            {"name": "bireal18/binary", "sessions": 2, "images_per_s": 900.0, "scaling": 1.96, "n": 5},
        ],
        "modules": [
            {"network": "bireal18", "module": "all modules", "binary_ms": 2.0, "full_ms": 18.0, "ratio": 9.0}
            | {"unfused": False},
        ],
    }
    return Recorded(
        costs=Costs.model_validate({**head, **costs}),
        network=Document.model_validate({"benchmark": "network", "rows": networks, "left_out": left_out, **head}),
        kernel=Document.model_validate({"benchmark": "kernel", "rows": blocks, **head}),
    )


def _files(folder: Path) -> list[str]:
    """Options that name the three documents in a folder."""
    return [text for name in ("network", "kernel", "costs") for text in (f"--{name}", str(folder / f"{name}.doc"))]


def test_recording_writes_the_file_and_draws_everything_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = _recorded()
    for name in ("network", "kernel", "costs"):
        (tmp_path / f"{name}.doc").write_text(getattr(recorded, name).model_dump_json())
    folder = tmp_path / "benchmarks"
    documents = [
        text for name in ("network", "kernel", "costs") for text in (f"--{name}", str(tmp_path / f"{name}.doc"))
    ]
    folder.mkdir()
    (folder / "2026-01-02-test-cpu-3-ghz-1-2-3.remarks.md").write_text("The shuffles bound it.\n")
    assert record.main([*documents, "--folder", str(folder)]) == 0
    stem = "2026-01-02-test-cpu-3-ghz-1-2-3"
    assert {path.name for path in folder.iterdir()} == {
        f"{stem}.json",
        f"{stem}-network.svg",
        f"{stem}-kernel.svg",
        "README.md",
        f"{stem}.remarks.md",
    }
    assert Recorded.read(folder / f"{stem}.json") == recorded
    page = (folder / "README.md").read_text()
    assert "| **`bireal18/binary`** | 2.50 |" in page and "**10.00x**" in page
    assert "| `64@56` | 140.0 | 126.0 - 154.0 | 900 | 90.0 % | - | 1400 | 10.0x | 280 | 2.00x |" in page
    assert "- `*/openvino-*`: not installed" in page
    assert "| **`bireal18/binary`** | 3.00 MB | 3.00 MB | 8.6 MiB | 11.4 MiB | 7.50x |" in page
    assert "| **`bireal18/binary`** | avx2 | 100.0 million | 9.00x |" in page
    assert "| **`bireal18/binary`** | 2 | 900.0 | 1.96x |" in page
    assert "| all modules | 2.000 | 18.000 | 9.0x | 3.4 / 25.1 s = 7.38x |" in page
    assert "### What bounds the rest\n\nThe shuffles bound it.\n" in page
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert record.main(["--render", "--folder", str(folder)]) == 0
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    assert stem in capsys.readouterr().out


def test_the_worth_of_threads_and_batches_is_derived_from_the_rows() -> None:
    recorded = _recorded()
    base, binary = (row.model_dump() for row in recorded.network.rows)
    cells = [(1, 1, 2.5), (2, 1, 1.25), (1, 8, 16.0), (2, 8, 10.0)]
    rows = [{**binary, "threads": threads, "batch": batch, "median_ms": ms} for threads, batch, ms in cells]
    document = Document.model_validate({**recorded.network.model_dump(), "rows": [base, *rows]})
    page = record.render([recorded.model_copy(update={"network": document})])["README.md"]
    assert "| `bireal18/binary` | 2.00x | 1.60x | 1.25x |" in page
    assert "| `resnet18/ort-fp32` | - | - | - |" in page
    assert "Threads and batches" not in record.render([recorded])["README.md"]


@pytest.mark.parametrize(
    ("cells", "heads", "values"),
    [
        ([(1, 1, 2.5), (2, 1, 1.25)], "2 threads, batch 1", "2.00x"),
        ([(1, 1, 2.5), (1, 8, 16.0)], "batch 8, 1 thread", "1.25x"),
        ([(1, 1, 6.0), (2, 1, 3.0), (4, 1, 2.0)], "2 threads, batch 1 | 4 threads, batch 1", "2.00x | 3.00x"),
    ],
)
def test_only_what_was_measured_has_a_column(cells: list[tuple[int, int, float]], heads: str, values: str) -> None:
    recorded = _recorded()
    binary = recorded.network.rows[1].model_dump()
    rows = [{**binary, "threads": threads, "batch": batch, "median_ms": ms} for threads, batch, ms in cells]
    document = Document.model_validate({**recorded.network.model_dump(), "rows": rows})
    page = record.render([recorded.model_copy(update={"network": document})])["README.md"]
    assert f"| | {heads} |\n" in page and f"| `bireal18/binary` | {values} |\n" in page
    said = page.partition("#### Threads and batches\n\n")[2].partition("|")[0]
    assert ("threads" in said, "throughput" in said) == ("threads" in heads, "batch 8" in heads)


def test_the_speedup_by_a_second_thread_that_the_readme_states_is_that_of_the_record() -> None:
    recorded = Recorded.read(record.FOLDER / "2026-11-24-amd-epyc-26-2-1.json")
    times = {(row.name, row.threads): row.median_ms for row in recorded.network.rows if row.batch == 1}
    names = {name for name, _ in times if name.endswith("/binary")}
    found = [times[name, 1] / times[name, 2] for name in names]
    said = f"on the Zen 5 by {min(found):.2f}x to {max(found):.2f}x"
    assert said in " ".join((record.ROOT / "README.md").read_text().split())


def test_the_speedups_that_the_readme_begins_with_are_those_of_the_newest_records() -> None:
    readme = " ".join((record.ROOT / "README.md").read_text().split())
    found: dict[bool, list[float]] = {True: [], False: []}
    for recorded in shown(record.recorded_files(record.FOLDER))[0]:
        network = recorded.network
        ours = [row for row in network.rows if row.name.endswith("/binary") and (row.threads, row.batch) == (1, 1)]
        found[network.machine.isa == "avx512vpopcnt"] += [row.ratio_vs_ort_fp32 for row in ours]
    counted, others = found[True], found[False]
    assert f"With AVX-512 VPOPCNTDQ, the 1-bit networks run {min(counted):.0f} to {max(counted):.0f} times" in readme
    assert f"without it, {min(others):.1f} to {max(others):.1f} times" in readme


def test_speedups_by_threads_between_runs_are_marked() -> None:
    recorded = _recorded()
    binary = recorded.network.rows[1].model_dump()
    rows = [{**binary, "threads": threads, "median_ms": 2.5 / threads} for threads in (1, 2)]
    for in_turns in (True, False):
        settings = {**recorded.network.settings.model_dump(), "threads_in_turns": in_turns}
        document = Document.model_validate({**recorded.network.model_dump(), "rows": rows, "settings": settings})
        page = record.render([recorded.model_copy(update={"network": document})])["README.md"]
        assert ("times of different minutes" in page) == (not in_turns)


def test_documents_of_one_number_of_threads_each_were_not_in_turns() -> None:
    def part(name: str, *threads: int) -> Document:
        settings = {**SETTINGS, "threads": list(threads), "threads_in_turns": True}
        row = _row(name, name, 25.0, 1.0)
        return Document.model_validate(
            {"benchmark": "network", "machine": MACHINE, "settings": settings, "rows": [row]}
        )

    assert merged([part("resnet18/ort-fp32", 1, 2), part("resnet34/ort-fp32", 1, 2)]).settings.threads_in_turns
    assert not merged([part("resnet18/ort-fp32", 1), part("resnet34/ort-fp32", 2)]).settings.threads_in_turns


def test_the_page_says_how_many_runs_a_median_is_of() -> None:
    recorded = _recorded()
    base, binary = (row.model_dump() for row in recorded.network.rows)
    document = Document.model_validate({**recorded.network.model_dump(), "rows": [base, {**binary, "n": 30}]})
    page = record.render([recorded.model_copy(update={"network": document})])["README.md"]
    networks, _, blocks = page.partition("### Blocks")
    assert "#### 1 thread, batch 1\n\n3 to 30 timed runs per row.\n" in networks
    assert "#### 1 thread, batch 1\n\n3 timed runs per row.\n" in blocks


def test_the_page_says_which_rows_of_openvino_emulated_our_rounding() -> None:
    recorded = _recorded()
    row = _row("bireal18/openvino-binary", "resnet18/ort-fp32", 5.0, 5.0)
    for against, said in (("derived reference, unoptimised", True), (UNROUNDED, False)):
        row["parity"] = {"against": against, "correlation": 1.0, "max_difference": 0.0}
        rows = [*(row.model_dump() for row in recorded.network.rows), row]
        document = Document.model_validate({**recorded.network.model_dump(), "rows": rows})
        page = record.render([recorded.model_copy(update={"network": document})])["README.md"]
        assert ("emulate the rounding" in page) == said


def test_the_page_says_in_what_precision_the_other_layers_of_binary_run() -> None:
    head, _, modules = record.render([_recorded()])["README.md"].partition("### Modules")
    for part in (head, modules):
        assert "an integer stem" in part and "real-valued 1x1 convolutions with dynamic" in " ".join(part.split())


def test_a_record_may_go_without_blocks_and_costs(tmp_path: Path) -> None:
    (tmp_path / "network.doc").write_text(_recorded().network.model_dump_json())
    options = ["--network", str(tmp_path / "network.doc"), "--without", "kernel", "costs"]
    assert record.main([*options, "--folder", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "README.md").read_text()
    assert "**`bireal18/binary`**" in page and "### Blocks" not in page and "### Memory" not in page
    assert record.main(["--render", "--folder", str(tmp_path / "page")]) == 0


def test_the_newest_record_of_each_cpu_is_shown_and_the_others_are_linked() -> None:
    other = _recorded("2026-01-03T00:00:00+00:00", cpu_id="Vendor 4 5 6")
    page = record.render([_recorded(), other, _recorded("2026-03-04T00:00:00+00:00")])["README.md"]
    shown = [page.index(f"## Test CPU @ 3 GHz ({what}") for what in ("Vendor 1 2 3), 2026-03-04", "Vendor 4 5 6)")]
    assert shown == sorted(shown)
    assert shown[-1] < page.index("## Earlier records")
    assert page.count("## Test CPU") == 2
    assert "- [2026-01-02-test-cpu-3-ghz-1-2-3.json](2026-01-02-test-cpu-3-ghz-1-2-3.json)" in page
    assert "- [2026-01-03" not in page


def test_a_part_of_another_commit_or_load_says_so_and_a_lost_commit_is_marked() -> None:
    recorded = _recorded()
    assert recorded.kernel is not None and "Commit `" not in record.render([recorded])["README.md"]
    machine = recorded.kernel.machine.model_copy(update={"commit": "43a23448d616", "load_1m": 7.5})
    other = recorded.model_copy(update={"kernel": recorded.kernel.model_copy(update={"machine": machine})})
    page = record.render([other])["README.md"]
    said = "Commit `43a23448d616` (not in this history), 2026-01-02T03:04:05+00:00, load average at the start 7.5."
    assert f"### Blocks\n\n{said}\n" in page


def test_pictures_of_records_that_the_page_no_longer_shows_are_removed(tmp_path: Path) -> None:
    record.write(tmp_path, _recorded())
    old = {path.name for path in tmp_path.glob("*.svg")}
    assert len(old) == 2
    record.write(tmp_path, _recorded("2026-03-04T00:00:00+00:00"))
    assert len(list(tmp_path.glob("*.json"))) == 2 and not old & {path.name for path in tmp_path.glob("*.svg")}


def test_what_was_measured_is_kept_where_a_later_part_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> Document:
        raise UsageError("no")

    recorded = _recorded()
    monkeypatch.setattr(record.network, "measure_options", lambda _: recorded.network)
    monkeypatch.setattr(record.kernel, "measure_options", fails)
    assert record.main(["--folder", str(tmp_path)]) == 2
    (kept,) = tmp_path.glob("*.json")
    assert Recorded.read(kept) == Recorded(network=recorded.network)


def test_plots_are_svg_with_a_bar_a_row_and_the_roofline() -> None:
    files = record.render([_recorded()])
    space = "{http://www.w3.org/2000/svg}"
    network = ET.fromstring(files["2026-01-02-test-cpu-3-ghz-1-2-3-network.svg"])
    kernel = ET.fromstring(files["2026-01-02-test-cpu-3-ghz-1-2-3-kernel.svg"])
    for plot, rows, lines in ((network, 2, 0), (kernel, 3, 1)):
        assert len(plot.findall(f"{space}rect")) == rows + 1  # and the background
        assert len(plot.findall(f"{space}line")) == lines


def test_bars_are_as_long_as_their_values_and_text_is_escaped() -> None:
    chart = bar_chart("a < b", "s", [Group((Bar("x", 1.0, "1", "binary"), Bar("y", 4.0, "4", "other")))])
    bars = ET.fromstring(chart).findall("{http://www.w3.org/2000/svg}rect")[1:]
    short, long = (float(bar.get("width", "0")) for bar in bars)
    assert long == 4 * short


def test_documents_of_two_machines_are_not_one_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = _recorded()
    (tmp_path / "network.doc").write_text(recorded.network.model_dump_json())
    assert recorded.kernel is not None
    other = json.loads(recorded.kernel.model_dump_json())
    other["machine"]["cpu_id"] = "Vendor 4 5 6"
    (tmp_path / "kernel.doc").write_text(json.dumps(other))
    (tmp_path / "costs.doc").write_text(recorded.costs.model_dump_json() if recorded.costs else "")
    documents = [
        text for name in ("network", "kernel", "costs") for text in (f"--{name}", str(tmp_path / f"{name}.doc"))
    ]
    assert record.main([*documents, "--folder", str(tmp_path / "none")]) == 2
    assert "different CPUs" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_file_that_is_no_record_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.json").write_text("{}")
    assert record.main(["--render", "--folder", str(tmp_path)]) == 2
    assert "broken.json" in capsys.readouterr().err


def test_the_committed_page_and_plots_are_those_of_the_committed_records() -> None:
    remarks = record.recorded_remarks(record.FOLDER)
    for name, text in record.render(record.recorded_files(record.FOLDER), remarks).items():
        assert (record.FOLDER / name).read_text() == text, f"{name} is stale: python -m loadtest.record --render"


# --- Documents measured one by one ------------------------------------------------------------------------------------


def _part(rows: list[dict[str, object]], **facts: object) -> Document:
    machine = {**MACHINE, **facts}
    return Document.model_validate({"benchmark": "network", "machine": machine, "settings": SETTINGS, "rows": rows})


def test_documents_of_one_machine_become_one() -> None:
    one = _part([_row("resnet18/ort-fp32", "resnet18/ort-fp32", 25.0, 1.0)], load_1m=0.5)
    other = _part([_row("resnet34/ort-fp32", "resnet34/ort-fp32", 50.0, 1.0)], date="2026-01-02T04:00:00+00:00")
    joint = merged([one, other])
    assert [row.name for row in joint.rows] == ["resnet18/ort-fp32", "resnet34/ort-fp32"]
    assert (joint.machine.date, joint.machine.load_1m) == (one.machine.date, 0.5)
    assert joint.machine.load_text == "0.5, the highest of 2 runs (0.5, 0.01)"
    assert len(merged([joint, _part([_row("a/ort-fp32", "a/ort-fp32", 1.0, 1.0)])]).machine.starts) == 3
    assert merged([one]).machine == one.machine
    costs = _recorded().costs
    assert costs is not None
    assert len(merged_costs([costs, costs]).memory) == 2 * len(costs.memory)


def test_blocks_of_several_documents_are_compared_with_the_highest_bound_of_all() -> None:
    def part(shape: str, threads: int, roofline: float) -> Document:
        rates = {"gmac_per_s": 800.0, "roofline_gmac_per_s": roofline, "percent_of_roofline": 80_000 / roofline}
        row = {**_row(f"{shape}/binary", f"{shape}/ort-fp32", 0.1, 10.0, **rates), "threads": threads}
        notes = ["a run is 8 blocks; times are of one", f"roofline: probe {roofline / threads:.0f} GMAC/s a core"]
        return _part([row]).model_copy(update={"benchmark": "kernel", "notes": tuple(notes)})

    joint = merged([part("64@56", 1, 900.0), part("128@28", 2, 2000.0)])
    assert [(row.roofline_gmac_per_s, row.percent_of_roofline) for row in joint.rows] == [
        (1000.0, 80.0),
        (2000.0, 40.0),
    ]
    assert joint.notes == (
        "a run is 8 blocks; times are of one",
        "roofline: probe 1000 GMAC/s a core; the highest of 2 documents",
    )
    alone = part("64@56", 1, 900.0)
    assert merged([alone]) == alone


@pytest.mark.parametrize("fact", [{"commit": "feedfacefeed"}, {"versions": {"python": "3.12"}}, {"isa": "scalar"}])
def test_documents_that_differ_are_refused(fact: dict[str, object]) -> None:
    one = _part([_row("resnet18/ort-fp32", "resnet18/ort-fp32", 25.0, 1.0)])
    other = _part([_row("resnet34/ort-fp32", "resnet34/ort-fp32", 50.0, 1.0)], **fact)
    with pytest.raises(UsageError, match=next(iter(fact))):
        merged([one, other])


def test_a_row_that_is_there_twice_is_refused() -> None:
    one = _part([_row("resnet18/ort-fp32", "resnet18/ort-fp32", 25.0, 1.0)])
    with pytest.raises(UsageError, match="resnet18/ort-fp32"):
        merged([one, one])
