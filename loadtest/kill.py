"""Stopping under load: `python -m loadtest.kill` sends SIGTERM, then SIGKILL, to a busy service, and counts the losses.

SIGTERM: the clients stop sending as soon as `/readyz` says 503, as a load balancer does; every request that was sent
until then must be answered, and the exit code must be 0. With `--stubborn` they go on until the port closes, a
connection a request: whoever has connected by then must be answered too, and whoever comes later is refused and has
lost nothing.

SIGKILL, `--rounds` times on one feedback store, each time with requests under way: what was in flight is lost. The
next start must be clean: ready, nothing logged as an error, the store intact. And it is asked for every label that any
of the killed processes had acknowledged, by sending it again: the service says whether it has it (`repeated`) or never
had (`stored`, which is a loss). Labels that were sent and not acknowledged may be there or not; they are sent again,
too, so that in the end the store must hold exactly those that were sent, one row each.
"""

import argparse
import contextlib
import json
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from loadtest.machine import describe_machine
from loadtest.options import count, file_to_write, positive
from loadtest.pictures import photo_like
from loadtest.stack import StackError, Started, ended, service, stop
from models.command_line import Parser


class Label(NamedTuple):
    """What a client says of a picture that was answered: the answer's token, and the class."""

    token: str
    label: int


@dataclass
class Tally:
    """What the clients saw.

    Attributes:
        answered: requests with an answer, be it that the queue is full.
        refused: connections that were not accepted: the service never saw the request.
        lost: requests that were sent and not answered, and why.
        wrong: answers that no request should get.
        acknowledged: labels that the service said it has.
        doubtful: labels that were sent and not answered: it may have them.
    """

    answered: int = 0
    refused: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    acknowledged: list[Label] = field(default_factory=list)
    doubtful: list[Label] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs both. Returns the exit code: 0, 1 (something was lost) or 2 (it could not be run)."""
    arguments = _parser().parse_args(argv)
    machine = describe_machine()
    try:
        document = {"kind": "kill", "term": terminate(arguments), "kill": kill(arguments)}
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    document["ok"] = document["term"]["ok"] and document["kill"]["ok"]
    document["machine"] = machine.model_dump(mode="json")
    text = json.dumps(document, indent=1)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    print(text)
    return 0 if document["ok"] else 1


def terminate(arguments: argparse.Namespace) -> dict[str, Any]:
    """SIGTERM under load.

    Raises:
        StackError: The service does not start, or it is not known what the clients saw.
    """
    tally, done = Tally(), threading.Event()
    with service([*_options(arguments), "--drain-s", DRAIN_S]) as server, _clients(arguments, server, done, tally):
        _wait(arguments.seconds, "a request was answered", lambda: tally.answered > 0, server)
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        if not arguments.stubborn:
            _wait_draining(server)
            done.set()
        exit_code = ended(server.process)
        took_s = time.monotonic() - begun
    return {
        "answered": tally.answered,
        "refused": tally.refused,
        "lost": (tally.lost + tally.wrong)[:20],
        "exit_code": exit_code,
        "seconds_to_exit": round(took_s, 2),
        "ok": not tally.lost and not tally.wrong and exit_code == 0,
    }


def kill(arguments: argparse.Namespace) -> dict[str, Any]:
    """SIGKILL under load, and a start on what it left, `arguments.rounds` times.

    Raises:
        StackError: The service does not start, before or after, or acknowledges nothing before it could be killed.
    """
    found = Recovered()
    tallies: list[Tally] = []
    with tempfile.TemporaryDirectory() as folder:
        store, secrets, log = (Path(folder) / name for name in ("feedback.sqlite", "secrets", "log"))
        # Tokens of one process are to be read by the next.
        secrets.write_text("of-this-measurement-alone\n")
        options = [*_options(arguments), "--feedback-store", store, "--feedback-secrets-file", secrets]
        for _ in range(arguments.rounds):
            with service(options, log=log) as server:
                found.check(server, tallies[-1:])
                tallies.append(_kill_one(server, arguments))
            found.errors += log.read_text().splitlines()
        begun = time.monotonic()
        with service(options, log=log) as server:
            ready_s = time.monotonic() - begun
            found.check(server, tallies[-1:])
            found.check_again(server, [label for tally in tallies for label in tally.acknowledged])
            answer = httpx.post(f"{server.url}/classify", content=photo_like(), headers=_OCTETS, timeout=60)
            exit_code = stop(server.process)
        found.errors += log.read_text().splitlines()
        with sqlite3.connect(store) as database:
            intact = database.execute("PRAGMA integrity_check").fetchone()[0]
            kept = database.execute("SELECT count(*) FROM feedback").fetchone()[0]
    acknowledged = sum(len(tally.acknowledged) for tally in tallies)
    doubtful = sum(len(tally.doubtful) for tally in tallies)
    document = {
        "rounds": arguments.rounds,
        "answered": sum(tally.answered for tally in tallies),
        "unanswered_at_kill": [len(tally.lost) for tally in tallies],
        "wrong": [wrong for tally in tallies for wrong in tally.wrong][:20],
        "acknowledged_feedback": acknowledged,
        "lost_feedback": found.lost,
        "unacknowledged_feedback": doubtful,
        "unacknowledged_kept": found.doubtful_kept,
        "sent_feedback": acknowledged + doubtful,
        "kept_feedback": kept,
        "store": intact,
        "seconds_to_ready": round(ready_s, 2),
        "errors_logged": found.errors[:20],
        "status_after": answer.status_code,
        "exit_code_after": exit_code,
    }
    clean = intact == "ok" and not found.errors and answer.status_code == 200 and exit_code == 0
    document["ok"] = not found.lost and kept == acknowledged + doubtful and not document["wrong"] and clean
    document["verdict"] = _verdict(document, clean=clean)
    return document


@dataclass
class Recovered:
    """What services said that were started on what a killed one left.

    Attributes:
        lost: acknowledged labels that they did not have.
        doubtful_kept: unacknowledged ones that they had.
        errors: lines that were logged as errors.
    """

    lost: int = 0
    doubtful_kept: int = 0
    errors: list[str] = field(default_factory=list)

    def check(self, server: Started, killed: Sequence[Tally]) -> None:
        """Sends again what was sent to a service before it was killed.

        Raises:
            StackError: The service takes no labels.
        """
        for tally in killed:
            self.check_again(server, tally.acknowledged)
            self.doubtful_kept += sum(_has(server, tally.doubtful))

    def check_again(self, server: Started, acknowledged: Sequence[Label]) -> None:
        """Counts those that the service does not have.

        Raises:
            StackError: The service takes no labels.
        """
        self.lost += sum(not has for has in _has(server, acknowledged))


def _has(server: Started, labels: Sequence[Label]) -> Iterator[bool]:
    """Whether the service has each label already; it has all of them afterwards."""
    with httpx.Client(base_url=server.url, timeout=60) as http:
        for label in labels:
            said = http.post("/feedback", json=label._asdict())
            if said.status_code not in (200, 201):
                raise StackError(f"A label that was sent again was answered by {said.status_code}: {said.text[:200]}")
            yield said.json()["status"] == "repeated"


def _kill_one(server: Started, arguments: argparse.Namespace) -> Tally:
    """Loads a service and kills it while labels are under way.

    Raises:
        StackError: It acknowledged too few labels, or nothing was under way when it was killed.
    """
    tally, done = Tally(), threading.Event()
    enough = arguments.labels
    with _clients(arguments, server, done, tally, feedback=True):
        _wait(
            arguments.seconds, f"{enough} labels were acknowledged", lambda: len(tally.acknowledged) >= enough, server
        )
        server.process.kill()
        exit_code = server.process.wait()
    if exit_code != -signal.SIGKILL:
        raise StackError(f"The service ended with {exit_code} before it could be killed.")
    if not tally.lost:
        raise StackError("No request was under way when the service was killed: send by more --clients.")
    return tally


def _verdict(document: dict[str, Any], *, clean: bool) -> str:
    if document["lost_feedback"]:
        return f"{document['lost_feedback']} of {document['acknowledged_feedback']} acknowledged labels were lost"
    if document["kept_feedback"] != document["sent_feedback"]:
        return f"the store holds {document['kept_feedback']} labels, where {document['sent_feedback']} were sent"
    if document["wrong"] or not clean:
        return "no acknowledged label was lost, but the service was not sound: see wrong, store, errors_logged, _after"
    return "no acknowledged label was lost, and each start was clean"


def _wait(seconds: float, what: str, condition: Callable[[], bool], server: Started) -> None:
    """Sleeps for the load to last, and then until there is something that can be lost.

    Raises:
        StackError: There is nothing within PATIENCE_S, or the service ended.
    """
    time.sleep(seconds)
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        if server.process.poll() is not None or time.monotonic() > give_up:
            raise StackError(f"Not within {seconds + PATIENCE_S:g} s: {what}.")
        time.sleep(0.01)


def _wait_draining(server: Started) -> None:
    """Waits until `/readyz` no longer says 200.

    Raises:
        StackError: The port was closed before anybody could see that.
    """
    try:
        while httpx.get(f"{server.url}/readyz", timeout=30).status_code == 200:
            time.sleep(0.01)
    except httpx.TransportError as error:
        raise StackError(
            f"The service closed its port within {DRAIN_S} s of SIGTERM, and /readyz was not seen to say 503 before "
            f"({type(error).__name__}): the machine is too busy to tell what was lost."
        ) from error


DRAIN_S = 5  # between `/readyz` saying 503 and the port closing
PATIENCE_S = 120.0
CLIENT_S = 60.0  # that a client waits for each byte

_OCTETS = {"content-type": "application/octet-stream"}


def _options(arguments: argparse.Namespace) -> list[object]:
    options: list[object] = ["--log-level", "error"]
    if arguments.model_dir is None:
        return options
    return [*options, "--model-dir", arguments.model_dir, "--fallback", "reference"]


@contextlib.contextmanager
def _clients(
    arguments: argparse.Namespace, server: Started, done: threading.Event, tally: Tally, *, feedback: bool = False
) -> Iterator[None]:
    """Clients that send for as long as the context lasts, or until `done` is set; at its end each has its last answer.

    Raises:
        StackError: One of them still waits, so that its count is not known.
    """
    lock = threading.Lock()
    threads = [
        threading.Thread(target=_client, args=(server.url, number, done, tally, lock, feedback), daemon=True)
        for number in range(arguments.clients)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
    for thread in threads:
        thread.join(CLIENT_S + 30)
    if any(thread.is_alive() for thread in threads):
        raise StackError("A client still waits for an answer of the service that was ended: its count is not known.")


def _client(url: str, number: int, done: threading.Event, tally: Tally, lock: threading.Lock, feedback: bool) -> None:
    """A connection a request, as the hardest case: none is kept that could hide a closed port."""
    body = photo_like(seed=number)
    with httpx.Client(base_url=url, timeout=CLIENT_S, limits=httpx.Limits(max_keepalive_connections=0)) as http:
        while not done.is_set():
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
                    tally.wrong.append(f"{response.status_code} {response.text[:200]}")
            if feedback and response.status_code == 200:
                _tell(http, Label(response.json()["feedback_token"], number % 2), tally, lock)


def _tell(http: httpx.Client, label: Label, tally: Tally, lock: threading.Lock) -> None:
    try:
        told = http.post("/feedback", json=label._asdict())
    except httpx.ConnectError:
        return  # it was never sent
    except httpx.HTTPError as error:
        with lock:
            tally.lost.append(f"{type(error).__name__} {error}")
            tally.doubtful.append(label)
        return
    with lock:
        if told.status_code == 201:
            tally.acknowledged.append(label)
        elif told.status_code not in (429, 503):
            tally.wrong.append(f"{told.status_code} {told.text[:200]}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m loadtest.kill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=positive, default=5.0, help="of load before each signal (%(default)s)")
    parser.add_argument("--clients", type=count, default=16, help="at once (%(default)s)")
    parser.add_argument("--rounds", type=count, default=3, help="SIGKILLs, on one store (%(default)s)")
    parser.add_argument("--labels", type=count, default=20, help="acknowledged before SIGKILL (%(default)s)")
    parser.add_argument("--stubborn", action="store_true", help="clients that go on sending until the port closes")
    parser.add_argument("--model-dir", type=Path, help="other models than the shipped ones")
    parser.add_argument("--out", type=file_to_write, help="write the report here too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
