"""One real service for the tests that only ask it; those that stop it start their own."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.live.service_process import LiveService, running
from tests.tiny_zoo import write_zoo


@pytest.fixture(scope="session")
def zoo(tmp_path_factory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="session")
def service(zoo, tmp_path_factory) -> Iterator[LiveService]:
    """Shared; its queues are long, so that no test meets 429 by chance."""
    log = tmp_path_factory.mktemp("live") / "service.log"
    with running(zoo, log, "--fallback", "reference", "--queue-size", 1000, "--log-format", "json") as live:
        yield live
        assert live.stop() == 0, log.read_text()


@pytest.fixture
def client(service) -> Iterator[httpx.Client]:
    with service.client() as ready:
        yield ready
