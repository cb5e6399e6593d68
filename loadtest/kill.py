"""Shutdown under load: `python -m loadtest.kill` sends SIGTERM and SIGKILL to busy services and counts lost requests.

SIGTERM: the clients stop sending when `/readyz` returns 503, like a load balancer. Every request sent before that must
be answered, and the exit code must be 0. With `--stubborn` the clients continue until the port closes, with one
connection per request: every accepted connection must be answered too, and a refused one counts as no loss.

SIGKILL: `--rounds` times on one feedback store, each time with requests in flight, which are lost. The next start must
be clean: ready, no errors logged, the store intact. Every label acknowledged by a killed process is then sent again,
and the service reports whether it has it (`repeated`) or not (`stored`, which is a loss). Labels that were sent but not
acknowledged may be in the store or not. They are sent again too, so that in the end the store must hold exactly one row
for each label that was sent.
"""

import argparse
import contextlib
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

from loadtest.options import add_report, run_report
from loadtest.pictures import photo_like
from loadtest.stack import StackError, Started, ended, service, stop
from models.command_line import Parser, count, positive


class Label(NamedTuple):
    """Feedback of a client on a classified picture: the response's token, and the class."""

    token: str
    label: int


@dataclass
class Tally:
    """What the clients observed.

    Attributes:
        answered: requests with a response, including "queue full".
        refused: connections that were not accepted, so the service never saw the request.
        lost: requests that were sent but not answered, with the error.
        wrong: unexpected responses.
        acknowledged: labels that the service acknowledged.
        doubtful: labels that were sent but not answered; the service may have stored them.
    """

    answered: int = 0
    refused: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    acknowledged: list[Label] = field(default_factory=list)
    doubtful: list[Label] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs both parts. Returns the exit code: 0, 1 (something was lost) or 2 (the test could not run)."""
    return run_report(_both, _parser().parse_args(argv), StackError)


def _both(arguments: argparse.Namespace) -> dict[str, Any]:
    term, killed = terminate(arguments), kill(arguments)
    return {"kind": "kill", "term": term, "kill": killed, "ok": term["ok"] and killed["ok"]}


def terminate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Sends SIGTERM under load.

    Raises:
        StackError: The service does not start, or the clients' counts are unknown.
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
    """Sends SIGKILL under load and starts again on the same store, `arguments.rounds` times.

    Raises:
        StackError: The service does not start, before or after, or acknowledges too little before it is killed.
    """
    found = Recovered()
    tallies: list[Tally] = []
    with tempfile.TemporaryDirectory() as folder:
        store, secrets, log = (Path(folder) / name for name in ("feedback.sqlite", "secrets", "log"))
        # The next process must accept the tokens of the previous one.
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
    """What services reported that were started on the store of a killed service.

    Attributes:
        lost: acknowledged labels that they did not have.
        doubtful_kept: unacknowledged labels that they had.
        errors: lines logged as errors.
    """

    lost: int = 0
    doubtful_kept: int = 0
    errors: list[str] = field(default_factory=list)

    def check(self, server: Started, killed: Sequence[Tally]) -> None:
        """Sends again the labels that were sent to a service before it was killed.

        Raises:
            StackError: The service does not accept labels.
        """
        for tally in killed:
            self.check_again(server, tally.acknowledged)
            self.doubtful_kept += sum(_has(server, tally.doubtful))

    def check_again(self, server: Started, acknowledged: Sequence[Label]) -> None:
        """Counts the acknowledged labels that the service does not have.

        Raises:
            StackError: The service does not accept labels.
        """
        self.lost += sum(not has for has in _has(server, acknowledged))


def _has(server: Started, labels: Sequence[Label]) -> Iterator[bool]:
    """Yields for each label whether the service already had it; afterwards it has all of them."""
    with httpx.Client(base_url=server.url, timeout=60) as http:
        for label in labels:
            said = http.post("/feedback", json=label._asdict())
            if said.status_code not in (200, 201):
                raise StackError(f"Sending a label again was answered with {said.status_code}: {said.text[:200]}")
            yield said.json()["status"] == "repeated"


def _kill_one(server: Started, arguments: argparse.Namespace) -> Tally:
    """Loads a service and kills it while labels are in flight.

    Raises:
        StackError: It acknowledged too few labels, or nothing was in flight when it was killed.
    """
    tally, done = Tally(), threading.Event()
    enough = arguments.labels
    with _clients(arguments, server, done, tally, feedback=True):
        _wait(
            arguments.seconds, f"{enough} labels were acknowledged", lambda: len(tally.acknowledged) >= enough, server
        )
        early = len(tally.lost)
        server.process.kill()
        exit_code = server.process.wait()
    tally.wrong += [f"before the kill: {lost}" for lost in tally.lost[:early]]
    del tally.lost[:early]
    if exit_code != -signal.SIGKILL:
        raise StackError(f"The service ended with {exit_code} before it could be killed.")
    if not tally.lost:
        raise StackError("No request was in flight when the service was killed: use more --clients.")
    return tally


def _verdict(document: dict[str, Any], *, clean: bool) -> str:
    if document["lost_feedback"]:
        return f"{document['lost_feedback']} of {document['acknowledged_feedback']} acknowledged labels were lost"
    if document["kept_feedback"] != document["sent_feedback"]:
        return f"the store holds {document['kept_feedback']} labels, but {document['sent_feedback']} were sent"
    if document["wrong"] or not clean:
        return "no acknowledged label was lost, but the service had errors: see wrong, store, errors_logged, *_after"
    return "no acknowledged label was lost, and each start was clean"


def _wait(seconds: float, what: str, condition: Callable[[], bool], server: Started) -> None:
    """Sleeps while the load runs, and then until `condition` holds.

    Raises:
        StackError: It did not hold within PATIENCE_S, or the service ended.
    """
    time.sleep(seconds)
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        if server.process.poll() is not None:
            raise StackError(f"The service ended with {server.process.returncode} before {what}.")
        if time.monotonic() > give_up:
            raise StackError(f"Timed out after {seconds + PATIENCE_S:g} s waiting until: {what}.")
        time.sleep(0.01)


def _wait_draining(server: Started) -> None:
    """Waits until `/readyz` no longer returns 200.

    Raises:
        StackError: The port was closed before that was observed.
    """
    try:
        while httpx.get(f"{server.url}/readyz", timeout=30).status_code == 200:
            time.sleep(0.01)
    except httpx.TransportError as error:
        raise StackError(
            f"The service closed its port within {DRAIN_S} s of SIGTERM, before /readyz was seen to return 503 "
            f"({type(error).__name__}): the machine is too busy to count losses."
        ) from error


DRAIN_S = 5  # between `/readyz` returning 503 and the port closing
PATIENCE_S = 120.0
CLIENT_S = 60.0  # read timeout of a client

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
    """Runs clients until the context ends or `done` is set; afterwards every client has its last response.

    Raises:
        StackError: A client still waits, so its count is unknown.
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
        raise StackError("A client still waits for a response of the ended service: its count is unknown.")


def _client(url: str, number: int, done: threading.Event, tally: Tally, lock: threading.Lock, feedback: bool) -> None:
    """Sends requests with one connection each, the hardest case: keep-alive could hide a closed port."""
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
    parser.add_argument(
        "--seconds", type=positive, default=5.0, help="seconds of load before each signal (default %(default)s)"
    )
    parser.add_argument("--clients", type=count, default=16, help="concurrent clients (default %(default)s)")
    parser.add_argument("--rounds", type=count, default=3, help="SIGKILLs on one store (default %(default)s)")
    parser.add_argument(
        "--labels", type=count, default=20, help="acknowledged labels before each SIGKILL (default %(default)s)"
    )
    parser.add_argument("--stubborn", action="store_true", help="clients keep sending until the port closes")
    parser.add_argument("--model-dir", type=Path, help="models to use instead of the shipped ones")
    add_report(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
