"""Short versions of the soak and of stopping under load; the commands run longer: see docs/benchmarks."""

import json
import sqlite3
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest

from loadtest import kill, soak
from loadtest.pictures import photo_like
from loadtest.stack import Started, service

OCTETS = {"content-type": "application/octet-stream"}

pytestmark = pytest.mark.slow


def test_a_saturated_service_answers_rightly(zoo, tmp_path):
    out = tmp_path / "soak.json"
    # Seconds are too short to tell a leak from a cache that fills: the slope is the ten minutes' to judge.
    arguments = [
        "--minutes",
        "0.1",
        "--clients",
        "12",
        "--queue-size",
        "2",
        "--model-dir",
        str(zoo),
        "--max-slope",
        "1e9",
    ]
    assert soak.main([*arguments, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert (report["wrong"], report["never_answered"]) == ([], [])
    assert min(report["different_answers"].values()) > 1  # mixed-up pictures would be seen
    assert report["answered"] > 20
    assert report["counts"].get("/classify 429", 0) > 0  # it was full
    assert report["rss_mb"]["end"] < 1000


def test_memory_that_grows_faster_than_allowed_does_not_pass(zoo, tmp_path):
    """Here a slope of less than nothing is asked for."""
    out = tmp_path / "soak.json"
    arguments = ["--minutes", "0.1", "--clients", "2", "--model-dir", str(zoo), "--max-slope=-1e12"]
    assert soak.main([*arguments, "--out", str(out)]) == 1
    report = json.loads(out.read_text())
    assert (report["wrong"], report["never_answered"]) == ([], [])
    assert report["slope_kb_per_min_second_half"] is not None


FAULTY = """
import http.server, signal, sys

class Answers(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(500 if self.path.startswith("/depth") else 200)
        self.send_header("content-length", "0")
        self.end_headers()

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
    print(server.server_port, flush=True)
    server.serve_forever()
"""


def test_wrong_answers_do_not_pass(tmp_path, monkeypatch):
    """A service that fails at depth maps, and takes for a picture whatever it is sent."""

    @contextmanager
    def faulty(options):
        with subprocess.Popen([sys.executable, "-c", FAULTY], stdout=subprocess.PIPE, text=True) as process:
            yield Started(f"http://127.0.0.1:{process.stdout.readline().strip()}", process.pid, process)

    monkeypatch.setattr(soak, "service", faulty)
    out = tmp_path / "soak.json"
    arguments = ["--minutes", "0.1", "--clients", "8", "--max-slope", "1e9", "--out", str(out)]
    assert soak.main(arguments) == 1
    report = json.loads(out.read_text())
    assert report["exit_code"] == 0
    found = " ".join(report["wrong"])
    assert "/depth?variant=binary: 500" in found
    assert "text: 200" in found or "cut: 200" in found


def test_nothing_accepted_is_lost(zoo, tmp_path):
    out = tmp_path / "kill.json"
    arguments = ["--seconds", "1", "--clients", "6", "--rounds", "2", "--model-dir", str(zoo), "--out", str(out)]
    assert kill.main(arguments) == 0
    report = json.loads(out.read_text())
    assert report["term"]["lost"] == []
    assert report["term"]["answered"] > 0
    found = report["kill"]
    assert found["verdict"] == "no acknowledged label was lost, and each start was clean"
    assert found["acknowledged_feedback"] >= 2 * 20
    assert all(unanswered > 0 for unanswered in found["unanswered_at_kill"])
    assert found["kept_feedback"] == found["acknowledged_feedback"] + found["unacknowledged_feedback"]


def test_a_lost_label_is_found(zoo, tmp_path):
    """The first row is taken out of the store behind the service's back: its label, sent again, is new."""
    store, secrets = tmp_path / "feedback.sqlite", tmp_path / "secrets"
    secrets.write_text("of-this-test-alone\n")
    options = ("--model-dir", zoo, "--fallback", "reference", "--feedback-store", store)
    with service([*options, "--feedback-secrets-file", secrets]) as server:
        labels = []
        for seed in range(3):
            answer = httpx.post(f"{server.url}/classify", content=photo_like(seed=seed), headers=OCTETS, timeout=60)
            labels.append(kill.Label(answer.json()["feedback_token"], 1))
            assert httpx.post(f"{server.url}/feedback", json=labels[-1]._asdict(), timeout=60).status_code == 201
        with sqlite3.connect(store) as database:
            database.execute("DELETE FROM feedback WHERE at = (SELECT min(at) FROM feedback)")
        found = kill.Recovered()
        found.check(server, [kill.Tally(acknowledged=labels[:2], doubtful=labels[2:])])
    assert (found.lost, found.doubtful_kept) == (1, 1)
