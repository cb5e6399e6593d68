"""A scheduler that is closed in the end, and the tally of what it reports."""

import pytest

from service.scheduler import Scheduler
from tests.scheduler.targets import Echo


class Tally:
    """Counts what the scheduler reports."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def batch_run(self, target: Echo, size: int) -> None:
        self.sizes.append(size)


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture
def make(tally):
    made = []

    def build(**options) -> Scheduler:
        scheduler = Scheduler(**{"workers": 1, "queue_size": 8, "on_run": tally.batch_run, **options})
        made.append(scheduler)
        return scheduler

    yield build
    for scheduler in made:
        scheduler.close(5)
