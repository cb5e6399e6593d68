"""The application with real models, driven in process; tests/live does it over a socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.registry import Registry
from service.settings import load_settings
from tests.tiny_zoo import write_zoo
from tests.waiting import until


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def zoo(tmp_path_factory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@asynccontextmanager
async def running(zoo: Path, registry: Registry | None = None, **options) -> AsyncIterator[httpx.AsyncClient]:
    """The application within its lifespan, its models loaded; `client.app` is the application itself."""
    settings = {"model_dir": zoo, "fallback": "reference", "workers": 2, "intra_op_threads": 1, **options}
    app = create_app(load_settings(settings), registry)
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        client.app = app
        await until(lambda: app.state.services.registry.readiness().state != "starting")
        yield client


@pytest.fixture(scope="module")
async def client(anyio_backend, zoo) -> AsyncIterator[httpx.AsyncClient]:
    async with running(zoo) as ready:
        yield ready


def metric(client: httpx.AsyncClient, name: str, **labels: str) -> float:
    """A metric's value, 0 where it has not been counted yet."""
    return client.app.state.services.metrics.registry.get_sample_value(name, labels) or 0.0
