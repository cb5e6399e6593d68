"""Locust users and load shape that run one plan of loadtest.scenarios.plan.

`python -m loadtest.load` runs it; the variable LOADTEST_PLAN names the file with the plan and the path of the results.
Do not import it into other processes, because Locust monkey-patches the standard library.
"""

import itertools
import json
import os
import random
import re
import time
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, LoadTestShape, constant, events, task
from locust.exception import StopUser

from loadtest.pictures import photo_like
from loadtest.scenarios.plan import Step, arrivals

_PLAN: dict[str, Any] = json.loads(Path(os.environ["LOADTEST_PLAN"]).read_text(encoding="utf-8"))
_STEPS = [Step(step["seconds"], step["level"]) for step in _PLAN["steps"]]
_KINDS = [(item["task"], item["variant"]) for item in _PLAN["mix"]]
_SHARES = [item["share"] for item in _PLAN["mix"]]
_WARM_UP_S: float = _PLAN["warm_up_s"]
_PICTURE = Path(_PLAN["image"]).read_bytes() if _PLAN["image"] else photo_like()

_INFERENCE = re.compile(r"inference;dur=([0-9.]+)")

#: One list per request, see loadtest.scenarios.drive.Sample.
_samples: list[list[Any]] = []
_random = random.Random(_PLAN["seed"])
_begun: float | None = None


def _now(first_s: float = 0.0) -> float:
    """Seconds since the start of the plan; the first call sets the start. On Linux, all processes share the clock."""
    global _begun
    if _begun is None:
        _begun = time.perf_counter() - first_s
    return time.perf_counter() - _begun


def _turn(number: int, at_s: float) -> float | None:
    """When a user of a closed plan may send: from `at_s` on, or from the start of a later step that has so many users.

    Args:
        number: number of the user, from 0.
        at_s: a time, seconds from the start of the plan.

    Returns:
        That time; None if the user is in no step any more.
    """
    end_s = 0.0
    for step in _STEPS:
        begin_s, end_s = end_s, end_s + step.seconds
        if at_s < end_s and number < round(step.level):
            return max(at_s, begin_s)
    return None


@events.quitting.add_listener
def _write(**_: Any) -> None:
    document = {"began_s": _begun, "samples": _samples}
    Path(_PLAN["samples"]).write_text(json.dumps(document), encoding="utf-8")


class Sender(FastHttpUser):
    """Sends one request and records it."""

    abstract = True
    wait_time = constant(0)
    concurrency = 1000  # connections of a user that does not wait for responses
    network_timeout = connection_timeout = 60.0

    def send(self, due_s: float) -> None:
        """Sends one request; its latency counts from the time it was due."""
        kind, variant = _random.choices(_KINDS, _SHARES)[0]
        name = f"{kind} {variant}"
        late_s = _now() - due_s
        with self.client.post(
            f"/{kind}?variant={variant}",
            data=_PICTURE,
            headers={"content-type": "image/jpeg"},
            name=name,
            catch_response=True,
        ) as response:
            took_ms = 1000 * (_now() - due_s)
            found = _INFERENCE.search(response.headers.get("server-timing", "") if response.headers else "")
            inference_ms = float(found[1]) if found else None
            _samples.append([name, took_ms, inference_ms, response.status_code, due_s, 1000 * late_s])
            if response.status_code == 429:
                response.success()  # the right response of a full queue; counted by its status


class ClosedUser(Sender):
    """Sends the next request as soon as it has a response, in the steps that have so many users."""

    abstract = _PLAN["loop"] != "closed"
    numbers = itertools.count()

    def on_start(self) -> None:
        """Takes a number."""
        self._number = next(self.numbers)

    @task
    def ask(self) -> None:
        """Sends one request after the other."""
        now_s = _now()
        turn_s = _turn(self._number, now_s)
        if turn_s is None:
            raise StopUser
        if turn_s > now_s:
            gevent.sleep(turn_s - now_s)
        self.send(_now())


class OpenUser(Sender):
    """Generates all arrivals: it waits for the next arrival, never for a response."""

    abstract = _PLAN["loop"] != "open"

    @task
    def arrive(self) -> None:
        """Sends requests until the plan ends, then waits for the last responses."""
        pending = []
        _now(-_WARM_UP_S)
        for due_s in arrivals(_STEPS, _WARM_UP_S, _random):
            # Timers may be a millisecond late, so the last 2 ms are spent spinning: the generator has its own CPU.
            if (wait_s := due_s - _now() - 0.002) > 0:
                gevent.sleep(wait_s)
            while _now() < due_s:
                gevent.sleep(0)
            pending.append(gevent.spawn(self.send, due_s))
        gevent.joinall(pending)
        self.environment.runner.quit()
        raise StopUser


class Steps(LoadTestShape):
    """All users that a closed plan ever has; a single `OpenUser` for open plans.

    Locust asks once a second. A step that began in between would have the users of the last one for up to a second, so
    each user looks itself when it is to send.
    """

    def tick(self) -> tuple[int, float] | None:
        """Number of users and spawn rate per second; None at the end."""
        if _PLAN["loop"] == "open":
            return 1, 1
        return None if _turn(0, _now()) is None else (max(round(step.level) for step in _STEPS), 1000)
