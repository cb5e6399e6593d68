"""Stopping under load: `python -m loadtest.kill` sends SIGTERM, then SIGKILL, to a busy service, and counts the losses.

SIGTERM: the clients stop sending as soon as `/readyz` says 503, as a load balancer does; every request that was sent
until then must be answered, and the exit code must be 0. (Clients that go on sending until the port closes may find
their connection reset while it waited in the system's backlog: the service never saw it. `--stubborn` shows how many.)
SIGKILL: whatever was in flight is lost; the next start on the same feedback store must be clean, and hold all feedback
that was acknowledged.
"""

import argparse
import json
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from loadtest.machine import describe_machine
from loadtest.pictures import photo_like
from loadtest.server import ServerError, serving
from models.command_line import Parser


@dataclass
class Tally:
    """What the clients saw."""

    answered: int = 0
    refused: int = 0
    lost: list[str] = field(default_factory=list)
    acknowledged: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs both. Returns the exit code: 0, 1 (something was lost) or 2 (it could not be run)."""
    arguments = _parser().parse_args(argv)
    try:
        document = {"kind": "kill", "term": terminate(arguments), "kill": kill(arguments)}
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    document["ok"] = document["term"]["ok"] and document["kill"]["ok"]
    document["machine"] = describe_machine().model_dump(mode="json")
    text = json.dumps(document, indent=1)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    print(text)
    return 0 if document["ok"] else 1


def terminate(arguments: argparse.Namespace) -> dict[str, Any]:
    """SIGTERM under load.

    Raises:
        ServerError: The service does not start.
    """
    tally, stop = Tally(), threading.Event()
    with serving(*_options(arguments), "--drain-s", 2) as server:
        clients = _start(arguments.clients, server.url, stop, tally, feedback=False)
        time.sleep(arguments.seconds)
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        if not arguments.stubborn:
            while httpx.get(f"{server.url}/readyz", timeout=30).status_code == 200:
                time.sleep(0.01)
            stop.set()
        exit_code = server.process.wait(60)
        took_s = time.monotonic() - begun
        stop.set()
        for client in clients:
            client.join(60)
    return {
        "answered": tally.answered,
        "refused": tally.refused,
        "lost": tally.lost[:20],
        "exit_code": exit_code,
        "seconds_to_exit": round(took_s, 2),
        "ok": not tally.lost and exit_code == 0 and tally.answered > 0,
    }


def kill(arguments: argparse.Namespace) -> dict[str, Any]:
    """SIGKILL under load, and a start on what it left.

    Raises:
        ServerError: The service does not start, before or after.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "feedback.sqlite"
        options = [*_options(arguments), "--feedback-store", store]
        tally, stop = Tally(), threading.Event()
        with serving(*options) as server:
            clients = _start(arguments.clients, server.url, stop, tally, feedback=True)
            time.sleep(arguments.seconds)
            server.process.kill()
            server.process.wait()
            stop.set()
            for client in clients:
                client.join(60)
        begun = time.monotonic()
        with serving(*options) as server:
            ready_s = time.monotonic() - begun
            answer = httpx.post(f"{server.url}/classify", content=photo_like(), headers=_OCTETS, timeout=30)
            exit_code = server.stop(signal.SIGTERM)
        with sqlite3.connect(store) as database:
            intact = database.execute("PRAGMA integrity_check").fetchone()[0]
            kept = database.execute("SELECT count(*) FROM feedback").fetchone()[0]
    return {
        "answered": tally.answered,
        "acknowledged_feedback": tally.acknowledged,
        "kept_feedback": kept,
        "store": intact,
        "seconds_to_ready": round(ready_s, 2),
        "status_after": answer.status_code,
        "exit_code_after": exit_code,
        # More may be kept than was acknowledged: written, and killed before the client heard of it.
        "ok": intact == "ok" and kept >= tally.acknowledged > 0 and answer.status_code == 200 and exit_code == 0,
    }


_OCTETS = {"content-type": "application/octet-stream"}


def _options(arguments: argparse.Namespace) -> list[object]:
    if arguments.model_dir is None:
        return []
    return ["--model-dir", arguments.model_dir, "--fallback", "reference"]


def _start(count: int, url: str, stop: threading.Event, tally: Tally, *, feedback: bool) -> list[threading.Thread]:
    lock = threading.Lock()
    threads = [
        threading.Thread(target=_client, args=(url, number, stop, tally, lock, feedback), daemon=True)
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    return threads


def _client(url: str, number: int, stop: threading.Event, tally: Tally, lock: threading.Lock, feedback: bool) -> None:
    """A connection a request, as the hardest case: none is kept that could hide a closed port."""
    body = photo_like(seed=number)
    http = httpx.Client(base_url=url, timeout=60, limits=httpx.Limits(max_keepalive_connections=0))
    while not stop.is_set():
        try:
            response = http.post("/classify", content=body, headers=_OCTETS)
        except httpx.ConnectError:
            with lock:
                tally.refused += 1
            time.sleep(0.01)
            continue
        except httpx.HTTPError as error:
            with lock:
                tally.lost.append(f"{type(error).__name__} {error}")
            continue
        with lock:
            if response.status_code in (200, 429, 503):
                tally.answered += 1
            else:
                tally.lost.append(f"{response.status_code} {response.text[:200]}")
        if feedback and response.status_code == 200:
            document = {"token": response.json()["feedback_token"], "label": 0}
            try:
                told = http.post("/feedback", json=document)
            except httpx.HTTPError:
                continue
            with lock:
                tally.acknowledged += told.status_code == 201
    http.close()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m loadtest.kill", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of load before each signal (%(default)s)")
    parser.add_argument("--clients", type=int, default=16, help="at once (%(default)s)")
    parser.add_argument("--stubborn", action="store_true", help="clients that go on sending until the port closes")
    parser.add_argument("--model-dir", type=Path, help="other models than the shipped ones")
    parser.add_argument("--out", type=Path, help="write the report here too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
