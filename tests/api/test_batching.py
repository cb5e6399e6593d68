"""Images of several clients in one run: each client gets its own answer, and the run is counted once."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from PIL import Image

from service.registry import Registry
from service.settings import load_settings
from tests.api.conftest import metric, running
from tests.api.test_limits import FULL, Gate, held
from tests.pictures import encode
from tests.waiting import until

pytestmark = pytest.mark.anyio

RUN = {**FULL, "kernel": "onnxruntime"}
COLOURS = {"red": "red", "green": "lime", "blue": "blue"}  # classes, and Pillow's names of the purest pixels


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def gated(anyio_backend, zoo, gate) -> AsyncIterator[httpx.AsyncClient]:
    """The service with one worker behind the gate, which runs up to four images at once."""
    options = {"workers": 1, "queue_size": 8, "max_batch": 4, "default_variant": "full"}
    registry = Registry(load_settings({"model_dir": zoo, **options}), find_backend=lambda _: gate)
    async with running(zoo, registry, **options) as client:
        while gate.entered.acquire(blocking=False):  # the warm-up's
            pass
        yield client
        gate.open.set()


async def test_images_that_wait_share_a_run_and_each_gets_its_own_class(gated, gate):
    (first,) = await held(gated, gate, 1)
    waiting = {}
    for waited, (name, colour) in enumerate(COLOURS.items(), 1):
        picture = encode(Image.new("RGB", (40, 40), colour), "PNG")
        waiting[name] = asyncio.create_task(gated.post("/classify", content=picture))
        await until(lambda waited=waited: metric(gated, "bireal_queue_depth") == waited)
    runs = metric(gated, "bireal_batch_size_count", **RUN)
    images = metric(gated, "bireal_batch_size_sum", **RUN)
    gate.open.set()
    assert (await first).json()["batch_size"] == 1
    for name, task in waiting.items():
        answer = (await task).json()
        assert (answer["predictions"][0]["name"], answer["batch_size"]) == (name, 3)
    assert metric(gated, "bireal_batch_size_count", **RUN) - runs == 2
    assert metric(gated, "bireal_batch_size_sum", **RUN) - images == 4
