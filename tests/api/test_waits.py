"""Waiting for a thread, before a run and after it: up to the deadline or the client's departure, apart from work."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest

from service.pipeline.stages import Step, noted, timed
from service.pipeline.threads import SHARED, answers_of
from service.registry import Handle
from service.scheduler.work import Outcome
from service.server.presence import PRESENCE_KEY, Presence
from tests.api.conftest import metric, running
from tests.cards import classify_card
from tests.pictures import encode, photo
from tests.scheduler.targets import Echo
from tests.waiting import until

pytestmark = pytest.mark.anyio

PICTURE = encode(photo(), "JPEG")
HELD_S = 60.0  # far longer than any test waits for what it expects
TARGETS = {
    task: {"task": task, "model": model, "version": "1", "variant": "full"}
    for task, model in (("classify", "tiny-colours"), ("depth", "tiny-ramp"))
}


@pytest.fixture
async def service(anyio_backend, zoo) -> AsyncIterator[httpx.AsyncClient]:
    async with running(zoo, default_variant="full", decode_threads=1) as client:
        yield client


@pytest.fixture
def held(service, monkeypatch):
    """Holds the calls of a lane in their thread until the test is over; returns an event for the first."""
    pool, opened = service.app.state.services.pipeline._pool, threading.Event()
    run = pool.run

    def hold(lane: str, name: str = "") -> threading.Event:
        entered = threading.Event()

        async def maybe(given, call, *args, **kwargs):
            def wait():
                entered.set()
                opened.wait(HELD_S)
                return call(*args, **kwargs)

            if given == lane and name in ("", getattr(call, "__name__", "")):
                return await run(given, wait)
            return await run(given, call, *args, **kwargs)

        monkeypatch.setattr(pool, "run", maybe)
        return entered

    yield hold
    opened.set()


def document(picture: bytes = PICTURE) -> dict:
    data = [base64.b64encode(picture).decode()]
    return {"inputs": [{"name": "encoded_image", "shape": [1], "datatype": "BYTES", "data": data}]}


def request(path: str) -> dict:
    return {"json": document()} if path.startswith("/v2") else {"content": PICTURE}


async def leave(client: httpx.AsyncClient, path: str, entered: threading.Event, **sent) -> None:
    """Sends a request with the service's own server in mind, and leaves once it is held."""
    built = client.build_request("POST", path, **(sent or request(path)))
    presence, (name, _, query) = Presence(), path.partition("?")
    scope = {
        "type": "http",
        "method": "POST",
        "path": name,
        "raw_path": name.encode(),
        "query_string": query.encode(),
        "headers": [(key.lower(), value) for key, value in built.headers.raw],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("t", 80),
        "client": ("c", 1),
        PRESENCE_KEY: presence,
    }

    async def receive() -> dict:
        return {"type": "http.request", "body": built.content, "more_body": False}

    async def send(message: dict) -> None:
        pass

    answering = asyncio.ensure_future(client.app(scope, receive, send))
    await until(entered.is_set)
    presence.leave()
    async with asyncio.timeout(HELD_S / 2):
        await asyncio.wait([answering])


# ---- after the run ---------------------------------------------------------------------------------------------------

AFTER = [
    ("/depth", ""),
    ("/depth?format=png16", ""),
    ("/v2/models/tiny-ramp/infer", ""),
    ("/compare/depth?a=full&b=full", "_compared"),
    ("/compare/depth?a=full&b=full&format=error_map", "_compared"),
]


@pytest.mark.parametrize(("path", "name"), AFTER)
async def test_the_deadline_holds_while_an_answer_is_made(service, held, path, name):
    held(answers_of("depth"), name)
    async with asyncio.timeout(HELD_S / 2):
        answer = await service.post(path, **request(path), headers={"x-timeout-ms": "1000"})
    assert answer.status_code == 504
    assert metric(service, "bireal_expired_total", **TARGETS["depth"]) == 1


@pytest.mark.parametrize(("path", "name"), AFTER)
async def test_a_client_that_leaves_while_its_answer_is_made_is_noticed(service, held, path, name):
    await leave(service, path, held(answers_of("depth"), name))
    assert metric(service, "bireal_cancelled_total", **TARGETS["depth"]) == 1


async def test_feedback_on_a_map_is_given_up_at_its_deadline(service, held):
    token = (await service.post("/depth", content=PICTURE)).json()["feedback_token"]
    held(answers_of("depth"), "_score")
    parts = {"picture": ("p.jpg", PICTURE, "image/jpeg"), "truth": ("t.png", PICTURE, "image/png")}
    async with asyncio.timeout(HELD_S / 2):
        answer = await service.post(
            "/feedback/depth", data={"token": token}, files=parts, headers={"x-timeout-ms": "1000"}
        )
    assert answer.status_code == 504


# ---- before the run --------------------------------------------------------------------------------------------------

V2 = "/v2/models/tiny-colours/infer"


@pytest.mark.parametrize("name", ["_parse", "_inputs"])
async def test_the_deadline_holds_for_a_body_that_waits_to_be_read(service, held, name):
    held(SHARED, name)
    async with asyncio.timeout(HELD_S / 2):
        answer = await service.post(V2, json=document(), headers={"x-timeout-ms": "500"})
    assert (answer.status_code, answer.json().keys()) == (504, {"error"})
    assert metric(service, "bireal_expired_total", **TARGETS["classify"]) == 1


@pytest.mark.parametrize("name", ["_parse", "_inputs"])
async def test_a_client_that_leaves_frees_the_place_of_its_body(service, held, name):
    await leave(service, V2, held(SHARED, name))
    assert metric(service, "bireal_cancelled_total", **TARGETS["classify"]) == 1


LARGE = json.dumps({"image": base64.b64encode(PICTURE).decode()}).encode() + b" " * 200_000
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("path", "counted"),
    [
        ("/classify", "classify"),
        ("/depth", "depth"),
        ("/compare/classify?a=full&b=full", "classify"),
        ("/compare/depth?a=full&b=full", "depth"),
    ],
)
async def test_the_deadline_holds_for_a_large_json_body(service, held, path, counted):
    held(SHARED, "image_from_json")
    async with asyncio.timeout(HELD_S / 2):
        answer = await service.post(path, content=LARGE, headers={**JSON, "x-timeout-ms": "500"})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline-exceeded")
    assert metric(service, "bireal_expired_total", **TARGETS[counted]) == 1


async def test_the_deadline_holds_for_a_large_document(service, held):
    held(SHARED, "_parsed")
    async with asyncio.timeout(HELD_S / 2):
        answer = await service.post("/feedback", content=LARGE, headers={**JSON, "x-timeout-ms": "500"})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline-exceeded")


async def test_a_client_that_leaves_frees_the_place_of_its_large_json_body(service, held):
    await leave(service, "/classify", held(SHARED, "image_from_json"), content=LARGE, headers=JSON)
    assert metric(service, "bireal_cancelled_total", **TARGETS["classify"]) == 1


async def test_more_large_json_bodies_than_may_wait_are_refused(zoo):
    async with running(zoo, default_variant="full", decode_threads=1, queue_size=1) as service:
        pool, opened = service.app.state.services.pipeline._pool, threading.Event()
        holding = asyncio.ensure_future(pool.run(SHARED, opened.wait, HELD_S))
        try:
            waiting = asyncio.ensure_future(service.post("/classify", content=LARGE, headers=JSON))
            await until(lambda: pool.waiting() == 1)
            refused = await service.post("/classify", content=LARGE, headers=JSON)
        finally:
            opened.set()
        await holding
        assert (refused.status_code, refused.json()["queue"]) == (429, "bodies")
        assert (await waiting).status_code == 200
        assert metric(service, "bireal_rejected_total", **TARGETS["classify"]) == 1


@pytest.mark.parametrize("body", [b"{", b"{" + b" " * 200_001], ids=["small", "large"])
async def test_a_json_body_that_is_none_counts_whatever_its_size(service, body):
    answer = await service.post("/classify", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-body")
    labels = {**TARGETS["classify"], "kernel": "onnxruntime", "outcome": "client_error"}
    assert metric(service, "bireal_requests_total", **labels) == 1


# ---- the time of waiting ---------------------------------------------------------------------------------------------


async def test_waiting_for_a_decoding_thread_is_time_in_the_queue(service):
    pool, opened = service.app.state.services.pipeline._pool, threading.Event()
    holding = asyncio.ensure_future(pool.run("classify", opened.wait, HELD_S))
    try:
        asked = asyncio.ensure_future(service.post("/classify", content=PICTURE))
        await until(lambda: pool.waiting() == 1)
        await asyncio.sleep(0.3)
    finally:
        opened.set()
    await holding
    assert (await asked).json()["timings_ms"]["queue"] >= 290


@pytest.mark.parametrize("path", ["/depth", "/v2/models/tiny-ramp/infer"])
async def test_waiting_to_make_an_answer_is_time_in_the_queue(service, monkeypatch, path):
    pool = service.app.state.services.pipeline._pool
    run = pool.run

    async def late(lane, *args):
        if lane == answers_of("depth"):
            await asyncio.sleep(0.3)
        return await run(lane, *args)

    monkeypatch.setattr(pool, "run", late)
    answer = await service.post(path, **request(path))
    assert answer.status_code == 200, answer.text
    labels = {**TARGETS["depth"], "kernel": "onnxruntime"}
    assert metric(service, "bireal_stage_seconds_sum", **labels, stage="queue") >= 0.29


def test_a_step_is_timed_in_its_thread():
    made, step = timed(time.perf_counter() - 100, divmod, 7, 2)
    assert made == (3, 1)
    assert step.waited_s >= 100
    assert step.seconds < 100


def test_the_queue_is_all_waiting_and_each_wait_a_span():
    class Context:
        stages, images, labels = {}, [], {}

    handle = Handle(classify_card(), "full", model=Echo(), kernel="onnxruntime")
    outcome = Outcome(np.zeros(1), 8.0, 1.0, 1, 30.0)
    steps = {"decode": Step(10.0, 1.0, 4.0), "preprocess": Step(11.0, 1.0)}
    stages = noted(steps, outcome, Step(40.0, 1.0, 2.0), handle, Context)
    assert stages["queue"] == 14.0
    assert Context.stages == stages
    assert Context.images[0].stages == (
        ("queue", 6.0, 4.0),
        ("decode", 10.0, 1.0),
        ("preprocess", 11.0, 1.0),
        ("queue", 22.0, 8.0),
        ("inference", 30.0, 1.0),
        ("queue", 38.0, 2.0),
        ("postprocess", 40.0, 1.0),
    )
