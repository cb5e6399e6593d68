"""Short versions of the soak and of stopping under load; the commands run longer: see docs/benchmarks."""

import json

import pytest

from loadtest import kill, soak

pytestmark = pytest.mark.slow


def test_a_saturated_service_answers_rightly(zoo, tmp_path):
    out = tmp_path / "soak.json"
    # Seconds are too short to tell a leak from a cache that fills: the slope is the ten minutes' to judge.
    arguments = ["--minutes", "0.1", "--clients", "12", "--model-dir", str(zoo), "--max-slope", "1e9"]
    assert soak.main([*arguments, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["wrong"] == []
    assert report["answered"] > 20
    assert report["counts"].get("/classify 429", 0) > 0  # it was full
    assert report["rss_mb"]["end"] < 1000


def test_a_faulty_service_does_not_pass(zoo, tmp_path):
    """A slope of less than nothing is asked for: the command says no, and shows why."""
    arguments = ["--minutes", "0.05", "--clients", "2", "--model-dir", str(zoo), "--max-slope=-1e12"]
    assert soak.main(arguments) == 1


def test_nothing_accepted_is_lost(zoo, tmp_path):
    out = tmp_path / "kill.json"
    assert kill.main(["--seconds", "3", "--clients", "6", "--model-dir", str(zoo), "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["term"]["lost"] == []
    assert report["term"]["answered"] > 0
    assert report["kill"]["kept_feedback"] >= report["kill"]["acknowledged_feedback"] > 0
    assert report["kill"]["store"] == "ok"
