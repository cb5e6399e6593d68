"""The measurement of the scheduler's settings, on small models and for moments."""

import json
from pathlib import Path
from types import SimpleNamespace

from loadtest import scheduling
from loadtest.scheduling import Document, Tried, main, table
from tests.tiny_zoo import write_zoo


def test_it_measures_every_configuration(op, tmp_path, capsys):
    models, out = write_zoo(tmp_path / "zoo"), tmp_path / "out.json"
    options = ["--cpus", "2", "--max-batch", "1", "4", "--seconds", "0.05", "--rounds", "1", "--callers", "8"]
    assert main([*options, "--models", str(models), "--out", str(out)]) == 0
    document = Document.model_validate(json.loads(out.read_text()))
    assert len(document.rows) == 4 * 3 * 2
    assert all(row.images_per_s > 0 and 0 < row.p50_ms <= row.p95_ms for row in document.rows)
    for row in document.rows:
        assert row.rounds_per_s == (row.images_per_s, row.images_per_s), "of one round, and the warm-up is no round"
    assert {row.batch for row in document.rows if row.max_batch == 1} == {1.0}
    assert max(row.batch for row in document.rows if row.max_batch == 4) > 1.5, "what waits shares a run"
    table = capsys.readouterr().out
    assert "| tiny-bireal/binary | 2 x 1 | 4 |" in table


def test_images_a_run_are_a_mean_over_runs_not_over_images():
    """One run of 1 image and one of 3: each answer says the size of its run, so three of the four say 3."""
    scheduler = SimpleNamespace(workers=1, max_batch=4)
    handle = SimpleNamespace(card=SimpleNamespace(name="net"), variant="binary")
    measured = Tried(scheduler, handle, 1, rates=[4.0], latencies_s=[0.1] * 4, batches=[1, 3, 3, 3])
    assert scheduling.row(measured).batch == 2


def test_models_that_are_not_there(tmp_path, capsys):
    assert main(["--models", str(tmp_path)]) == 2
    assert "error: " in capsys.readouterr().err


def test_the_handbook_shows_what_was_recorded():
    docs = Path(__file__).resolve().parents[2] / "docs"
    (recorded,) = (docs / "benchmarks" / "scheduling").glob("*.json")
    text = (docs / "scheduling.md").read_text()
    for line in table(Document.model_validate_json(recorded.read_text())):
        assert line in text
