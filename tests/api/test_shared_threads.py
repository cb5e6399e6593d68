"""What waits for long has threads of its own: those that asyncio shares stay free, and nobody depends on them."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.api.conftest import metric, running
from tests.api.test_experiment_reports import Held
from tests.pictures import encode, photo
from tests.waiting import until

pytestmark = pytest.mark.anyio

PICTURE = encode(photo(), "JPEG")
ADMIN = "an-admin-key-for-tests-only-0123456789"
KEY = {"authorization": f"Bearer {ADMIN}"}
JSON = {"content-type": "application/json"}
MANY = 40  # asyncio's pool has at most 32 threads
PATIENCE_S = 60


@pytest.fixture
async def service(anyio_backend, zoo) -> AsyncIterator[httpx.AsyncClient]:
    async with running(zoo, admin_keys=ADMIN, default_variant="full") as client:
        yield client


async def held_up(service: httpx.AsyncClient, requests: list[asyncio.Task]) -> None:
    """Returns once all requests wait, and a thread of asyncio's pool was free nevertheless."""
    async with asyncio.timeout(PATIENCE_S):
        await until(lambda: metric(service, "bireal_in_flight") >= len(requests))
        await asyncio.to_thread(lambda: None)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/admin/models/tiny-colours/load"),
        ("POST", "/admin/models/tiny-colours/reload"),
        ("PUT", "/admin/models/tiny-colours/labels/stable?version=1"),
        ("POST", "/v2/repository/models/tiny-colours/load"),
    ],
)
async def test_changes_of_models_that_wait_for_each_other_take_no_thread_from_others(service, method, path):
    with service.app.state.services.changes._lock:
        asked = [asyncio.create_task(service.request(method, path, headers=KEY)) for _ in range(MANY)]
        await held_up(service, asked)
    assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}


async def test_feedback_that_waits_for_the_store_takes_no_thread_from_others(service, monkeypatch):
    store = service.app.state.services.experimentation.store
    token = (await service.post("/classify", content=PICTURE)).json()["feedback_token"]
    monkeypatch.setattr(store, "add_feedback", held := Held(store.add_feedback))
    try:
        document = {"token": token, "label": 0}
        asked = [asyncio.create_task(service.post("/feedback", json=document)) for _ in range(MANY)]
        await held_up(service, asked)
    finally:
        held.release()
    assert sorted(answer.status_code for answer in await asyncio.gather(*asked)) == [200] * (MANY - 1) + [201]


@pytest.fixture
def occupied(service) -> Iterator[None]:
    """Every thread of asyncio's pool is busy."""
    opened, loop = threading.Event(), asyncio.get_event_loop()
    for _ in range(MANY):
        loop.run_in_executor(None, opened.wait, PATIENCE_S)
    yield
    opened.set()


@pytest.mark.parametrize("path", ["/classify", "/depth", "/compare/classify?a=full&b=full"])
async def test_large_json_bodies_need_no_thread_of_asyncios_pool(service, occupied, path):
    body = json.dumps({"image": base64.b64encode(PICTURE).decode()}).encode() + b" " * 200_000
    async with asyncio.timeout(PATIENCE_S / 2):
        answer = await service.post(path, content=body, headers=JSON)
    assert answer.status_code == 200, answer.text


async def test_large_documents_need_none_either(service, occupied):
    token = (await service.post("/classify", content=PICTURE)).json()["feedback_token"]
    body = json.dumps({"token": token, "label": 0}).encode() + b" " * 200_000
    async with asyncio.timeout(PATIENCE_S / 2):
        answer = await service.post("/feedback", content=body, headers=JSON)
    assert answer.status_code == 201, answer.text


async def test_nor_does_a_change_of_models(service, occupied):
    async with asyncio.timeout(PATIENCE_S / 2):
        answer = await service.post(
            "/v2/repository/models/tiny-colours/load", content=b" " * 200_000 + b"{}", headers={**KEY, **JSON}
        )
    assert answer.status_code == 200, answer.text


# ---- the end of the service ------------------------------------------------------------------------------------------


async def test_a_change_under_way_ends_before_the_networks_are_released(zoo, monkeypatch):
    entered, order = threading.Event(), []
    async with running(zoo, admin_keys=ADMIN, default_variant="full") as service:
        registry = service.app.state.services.registry
        close = registry.close

        def fill(*_, stop=lambda: False, **__) -> None:
            entered.set()
            give_up = time.monotonic() + PATIENCE_S / 4
            while not stop() and time.monotonic() < give_up:
                time.sleep(0.005)
            order.append("stopped" if stop() else "given up")

        monkeypatch.setattr(registry.loader, "fill", fill)
        monkeypatch.setattr(registry, "close", lambda: order.append("closed") or close())
        asked = asyncio.create_task(service.post("/admin/models/tiny-colours/reload", headers=KEY))
        await until(entered.is_set)
    assert order == ["stopped", "closed"]
    assert (await asked).status_code == 503


async def test_a_call_in_a_decoding_thread_is_waited_for(zoo):
    entered, left = threading.Event(), []

    def call() -> None:
        entered.set()
        time.sleep(0.3)  # inside a library: an end that did not wait for it would come first
        left.append(True)

    async with running(zoo, default_variant="full") as service:
        calling = asyncio.create_task(service.app.state.services.pipeline._pool.run("classify", call))
        await until(entered.is_set)
    assert left == [True]
    await calling
