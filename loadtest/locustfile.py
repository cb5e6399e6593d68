"""Locust users that send pictures to `/classify` and `/depth`, for a look by hand at a service that runs.

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --bireal-variants binary,full

Every request is sent as soon as the one before is answered: the number of users is the number of requests at a time.
What is to be measured, by rate and by step, is `python -m loadtest.load`'s.
"""

import itertools
from argparse import Namespace
from pathlib import Path

from locust import FastHttpUser, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtest.pictures import photo_like


@events.init_command_line_parser.add_listener
def _add_options(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("bireal-serve")
    group.add_argument("--bireal-tasks", default="classify,depth", help="of classify, depth")
    group.add_argument("--bireal-variants", default="binary,full", help="of binary, reference, full")
    group.add_argument("--bireal-image", default="", help="a picture to send; one is made where not given")


class PictureUser(FastHttpUser):
    """Sends one picture after the other, to each task and variant in turn."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Reads what to send."""
        chosen = options(self.environment)
        tasks, variants = chosen.bireal_tasks.split(","), chosen.bireal_variants.split(",")
        self._turns = itertools.cycle(itertools.product(tasks, variants))
        self._picture = Path(chosen.bireal_image).read_bytes() if chosen.bireal_image else photo_like()

    @task
    def send(self) -> None:
        """One request, named by task and variant in Locust's report."""
        kind, variant = next(self._turns)
        self.client.post(
            f"/{kind}?variant={variant}",
            data=self._picture,
            headers={"content-type": "image/jpeg"},
            name=f"{kind} {variant}",
        )


def options(environment: Environment) -> Namespace:
    """What was asked for on Locust's command line."""
    parsed = environment.parsed_options
    assert parsed is not None
    return parsed
