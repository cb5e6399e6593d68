"""429 and 504 before a network runs: each image is counted once, and no answer is lost to other requests."""

import asyncio
import base64
import io
import threading
from collections.abc import AsyncIterator, Callable

import httpx
import numpy as np
import pytest
from PIL import Image

from service.errors import OverloadedError
from service.pipeline.threads import SHARED, answers_of
from tests.api.conftest import metric, running
from tests.pictures import encode, photo
from tests.waiting import until

pytestmark = pytest.mark.anyio

PICTURE = encode(photo(), "JPEG")
MODELS = {"classify": "tiny-colours", "depth": "tiny-ramp"}
OIP = "/v2/models/{}/infer"


@pytest.fixture
async def service(anyio_backend, zoo) -> AsyncIterator[httpx.AsyncClient]:
    options = {"default_variant": "full", "decode_threads": 1, "queue_size": 2}
    async with running(zoo, **options) as client:
        yield client


@pytest.fixture
def busy(service):
    """Occupies the only decoding thread and, where asked, places of a lane until the test is over."""
    pool, opened = service.app.state.services.pipeline._pool, threading.Event()
    tasks = []

    async def hold(lane: str, waiting: int) -> None:
        tasks.extend(asyncio.ensure_future(pool.run(lane, opened.wait, 20)) for _ in range(1 + waiting))
        await until(lambda: metric(service, "bireal_decode_queue_depth") == waiting)

    yield hold
    opened.set()


@pytest.fixture
def refuse(service, monkeypatch):
    """Makes a lane as good as full, for the calls for which a condition holds."""
    pool = service.app.state.services.pipeline._pool
    run = pool.run

    def arrange(lane: str, condition: Callable[[object], bool] = lambda call: True) -> None:
        async def full(name, call, *args, **kwargs):
            if name == lane and condition(call):
                raise OverloadedError(2, 1.0, "decoding")
            return await run(name, call, *args, **kwargs)

        monkeypatch.setattr(pool, "run", full)

    return arrange


def target(task: str) -> dict[str, str]:
    return {"task": task, "model": MODELS[task], "version": "1", "variant": "full"}


def refused(client: httpx.AsyncClient, task: str = "classify") -> float:
    return metric(client, "bireal_rejected_total", **target(task))


def images(client: httpx.AsyncClient, outcome: str, task: str = "classify") -> float:
    return metric(client, "bireal_requests_total", **target(task), kernel="onnxruntime", outcome=outcome)


def files(count: int) -> list:
    return [("file", (f"{number}.jpg", PICTURE, "image/jpeg")) for number in range(count)]


def document() -> dict:
    data = [base64.b64encode(PICTURE).decode()]
    return {"inputs": [{"name": "encoded_image", "shape": [1], "datatype": "BYTES", "data": data}]}


async def test_a_full_queue_before_the_decoding_threads(service, busy):
    await busy("classify", waiting=2)
    answer = await service.post("/classify", content=PICTURE)
    assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")
    assert (refused(service), images(service, "rejected")) == (1, 1)
    answer = await service.post("/compare/classify?a=full&b=full", content=PICTURE)
    assert (answer.status_code, refused(service), images(service, "rejected")) == (429, 2, 2)


async def test_images_whose_deadline_passes_before_they_are_decoded_are_counted(service, busy):
    await busy("depth", waiting=1)
    answer = await service.post("/classify", files=files(2), headers={"x-timeout-ms": "1000"})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline-exceeded")
    assert metric(service, "bireal_expired_total", **target("classify")) == images(service, "expired") == 2


async def test_several_images_are_decoded_together_or_not_at_all(service, busy):
    await busy("classify", waiting=1)
    answer = await service.post("/classify", files=files(2))
    assert answer.status_code == 429
    assert metric(service, "bireal_decode_queue_depth") == 1, "none of them waits for a request that was refused"
    assert (refused(service), images(service, "rejected")) == (2, 2)


async def test_a_request_that_cannot_be_read_yet(service, refuse):
    refuse(SHARED)
    for task in MODELS:
        answer = await service.post(OIP.format(MODELS[task]), json=document())
        assert (answer.status_code, answer.json().keys()) == (429, {"error"})
        assert (refused(service, task), images(service, "rejected", task)) == (1, 1)


async def test_inputs_that_cannot_be_read_yet(service, refuse):
    refuse(SHARED, lambda call: call.__name__ == "_inputs")
    answer = await service.post(OIP.format("tiny-colours"), json=document())
    assert (answer.status_code, refused(service), images(service, "rejected")) == (429, 1, 1)


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/depth?format=png16", "image/png"),
        ("/depth?values=true", "application/json"),
        ("/depth", "application/json"),
        ("/compare/depth?a=full&b=full", "application/json"),
        ("/compare/depth?a=full&b=full&format=error_map", "image/png"),
    ],
)
async def test_bodies_that_wait_to_be_read_cost_nobody_an_answer(service, refuse, path, media_type):
    refuse(SHARED)
    answer = await service.post(path, content=PICTURE)
    assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)


async def test_nor_do_they_cost_feedback_on_a_depth_map(service, refuse):
    refuse(SHARED)
    token = (await service.post("/depth", content=PICTURE)).json()["feedback_token"]
    with Image.open(io.BytesIO(PICTURE)) as picture:
        truth = encode(Image.fromarray(np.full((picture.height, picture.width), 2560, np.uint16)), "PNG")
    parts = {"picture": ("p.jpg", PICTURE, "image/jpeg"), "truth": ("t.png", truth, "image/png")}
    answer = await service.post("/feedback/depth", data={"token": token}, files=parts)
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("path", ["/depth?format=png16", "/depth?values=true", "/depth"])
async def test_an_answer_that_cannot_be_made_is_counted_as_refused(service, refuse, path):
    refuse(answers_of("depth"))
    answer = await service.post(path, content=PICTURE)
    assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")
    assert refused(service, "depth") == 1
    assert (images(service, "ok", "depth"), images(service, "rejected", "depth")) == (0, 1), "an image has one outcome"


@pytest.mark.parametrize("query", ["", "&format=error_map"])
async def test_a_comparison_of_images_that_ran_is_counted_as_refused(service, refuse, query):
    refuse(answers_of("depth"), lambda call: call.__name__ == "_compared")
    answer = await service.post(f"/compare/depth?a=full&b=full{query}", content=PICTURE)
    assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")
    assert refused(service, "depth") == 1
    assert (images(service, "ok", "depth"), images(service, "rejected", "depth")) == (2, 0), "an image has one outcome"


@pytest.mark.parametrize("query", ["?format=png16", "?values=true", ""])
async def test_an_answer_waits_for_a_thread_once(service, monkeypatch, query):
    pool, lanes = service.app.state.services.pipeline._pool, []
    run = pool.run

    async def noted(lane, *args):
        lanes.append(lane)
        return await run(lane, *args)

    monkeypatch.setattr(pool, "run", noted)
    assert (await service.post(f"/depth{query}", content=PICTURE)).status_code == 200
    assert lanes == ["depth", answers_of("depth")]


async def test_images_of_a_request_that_is_refused_at_its_end(service, refuse):
    finished = []
    refuse(answers_of("depth"), lambda call: finished.append(call) or len(finished) == 2)
    answer = await service.post("/depth", files=files(3))
    assert answer.status_code == 429
    assert refused(service, "depth") == 3
    assert (images(service, "ok", "depth"), images(service, "rejected", "depth")) == (0, 3)
