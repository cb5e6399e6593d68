"""What a soak test finds, against services that are made up: answers of other pictures, clients that end, memory."""

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest

from loadtest import soak, soak_answers
from loadtest.stack import Started

WAITING = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); print(flush=True); time.sleep(600)"
CLIENTS = 3


class Handler(BaseHTTPRequestHandler):
    """Answers with predictions that depend on the picture; `server.fault` selects what it does wrong under load."""

    protocol_version = "HTTP/1.1"
    wbufsize, disable_nagle_algorithm = 1 << 16, True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        server = self.server
        with server.lock:
            server.asked += 1
            loaded = server.asked > CLIENTS * len(soak_answers.VALID)
            other, server.last = server.last, body
        status, code = 200, None
        if body == b"no picture":
            status, code = 415, "broken-image" if server.fault == "code" else "unsupported-image"
        elif len(body) == 5000:
            status, code = 422, "broken-image"
        if status != 200:
            self._send(status, {"code": code})
        elif loaded and server.fault == "busy" and server.asked % 5 == 0:
            self._send(429, {"code": "queue-full"})
        elif loaded and server.fault == "compare" and self.path.startswith("/compare"):
            self._send(429, {"code": "queue-full"}, {"retry-after": "1"})
        else:
            self._send(200, self._answer(other if loaded and server.fault == "mixed" else body))

    def _answer(self, body: bytes) -> dict[str, object]:
        def one(variant: str) -> dict[str, object]:
            probability = int(hashlib.sha256(body + variant.encode()).hexdigest()[:6], 16) / 2**24
            shaken = 1e-6 * (self.server.asked % 3) if variant == self.server.shaken else 0
            predictions = [{"index": 1, "probability": probability + shaken}]
            return {"request_id": str(time.time()), "batch_size": self.server.asked, "variant": variant} | {
                "predictions": predictions
            }

        if self.path.startswith("/compare"):
            return {"speedup": time.time(), "a": one("binary"), "b": one("full")}
        return one("full" if "full" in self.path else "binary")

    def _send(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def soaked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, *, shaken: str = "full", minutes: str = "0.04"
) -> tuple[int, dict[str, object]]:
    """Exit code and report of a soak of a made-up service."""

    @contextmanager
    def made_up(_options: object) -> Iterator[Started]:
        with (
            ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server,
            subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True) as process,
        ):
            server.daemon_threads, server.block_on_close = True, False
            server.fault, server.shaken, server.asked = fault, shaken, 0
            server.last, server.lock = b"", threading.Lock()
            threading.Thread(target=server.serve_forever, daemon=True).start()
            assert process.stdout is not None
            process.stdout.readline()
            try:
                yield Started(f"http://127.0.0.1:{server.server_port}", process.pid, process)
            finally:
                process.kill()
                server.shutdown()

    monkeypatch.setattr(soak, "service", made_up)
    monkeypatch.setattr(soak, "_SAMPLE_S", 0.05)
    monkeypatch.setattr(soak_answers, "photo_like", lambda *size, seed, **_: b"%d" % seed * 6000 + b"%d" % len(size))
    monkeypatch.setattr(soak.httpx, "Client", partial(httpx.Client, verify=False))  # reading certificates takes long
    for path in soak_answers.WEIGHTS:
        monkeypatch.setitem(soak_answers.WEIGHTS, path, 1)  # soon each was sent
    out = tmp_path / "soak.json"
    arguments = ["--minutes", minutes, "--clients", str(CLIENTS), "--max-slope", "1e9", "--out", str(out)]
    return soak.main(arguments), json.loads(out.read_text())


def test_right_answers_pass_and_float_sums_may_differ_a_little(tmp_path, monkeypatch):
    code, report = soaked(tmp_path, monkeypatch, "none")
    assert (code, report["wrong"]) == (0, [])
    assert report["different_answers"] == dict.fromkeys(soak_answers.VALID, CLIENTS)
    samples = report["rss_samples"]
    assert len(samples["s"]) == len(samples["mb"]) >= 5


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("mixed", "another answer than alone: predictions[0].probability"),
        ("busy", "429 without Retry-After"),
        ("code", "text: code 'broken-image' instead of 'unsupported-image'"),
    ],
)
def test_what_is_wrong_under_load_does_not_pass(tmp_path, monkeypatch, fault, said):
    code, report = soaked(tmp_path, monkeypatch, fault)
    assert code == 1
    assert any(said in each for each in report["wrong"]), report["wrong"]
    assert report["exit_code"] == 0


def test_a_binary_answer_that_differs_at_all_does_not_pass(tmp_path, monkeypatch):
    code, report = soaked(tmp_path, monkeypatch, "none", shaken="binary")
    assert code == 1
    assert all("predictions[0].probability" in each for each in report["wrong"])


def test_a_path_that_is_only_refused_does_not_pass(tmp_path, monkeypatch):
    code, report = soaked(tmp_path, monkeypatch, "compare")
    assert (code, report["wrong"]) == (1, [])
    assert "/compare/classify" in report["never_answered"]  # and what its clients, which try again, did not come to


def test_a_client_that_ends_or_does_not_end_is_wrong(tmp_path, monkeypatch):
    forever = threading.Event()

    def broken(_url: str, number: int, *_: object) -> None:
        if number == 0:
            forever.wait(60)
        raise ZeroDivisionError(number)

    monkeypatch.setattr(soak, "_client", broken)
    monkeypatch.setattr(soak, "_JOIN_S", 0.2)
    try:
        code, report = soaked(tmp_path, monkeypatch, "none")
    finally:
        forever.set()
    assert code == 1
    assert {"client 0 still waits", "client 1 ended: ZeroDivisionError 1"} <= set(report["wrong"])


def test_a_slope_of_few_samples_is_unknown():
    assert soak.slope_kb_per_min(np.arange(8.0), np.arange(8.0)) is None
    assert soak.slope_kb_per_min(np.arange(60.0), 1000 * np.arange(60.0)) == pytest.approx(60)


def test_a_service_that_cannot_be_reached_is_an_error():
    with pytest.raises(httpx.HTTPError), httpx.Client(base_url="http://127.0.0.1:9") as http:
        soak_answers.prepare(http, 0, [])
