"""Locust users that send pictures to `/classify` and `/depth`, for trying out a running service by hand.

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --bireal-variants binary,full

Each user sends a request as soon as the previous one is answered, so the number of users is the number of concurrent
requests. For measurements use `python -m loadtest.load`.
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
    group.add_argument("--bireal-tasks", default="classify,depth", help="comma-separated: classify, depth")
    group.add_argument("--bireal-variants", default="binary,full", help="comma-separated: binary, reference, full")
    group.add_argument("--bireal-image", default="", help="picture to send (default: a synthetic one)")


class PictureUser(FastHttpUser):
    """Sends a picture repeatedly, to each task and variant in turn."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Reads the options and the picture."""
        chosen = options(self.environment)
        tasks, variants = chosen.bireal_tasks.split(","), chosen.bireal_variants.split(",")
        self._turns = itertools.cycle(itertools.product(tasks, variants))
        self._picture = Path(chosen.bireal_image).read_bytes() if chosen.bireal_image else photo_like()

    @task
    def send(self) -> None:
        """Sends one request, named by task and variant in Locust's report."""
        kind, variant = next(self._turns)
        self.client.post(
            f"/{kind}?variant={variant}",
            data=self._picture,
            headers={"content-type": "image/jpeg"},
            name=f"{kind} {variant}",
        )


def options(environment: Environment) -> Namespace:
    """The options given on Locust's command line."""
    parsed = environment.parsed_options
    assert parsed is not None
    return parsed
