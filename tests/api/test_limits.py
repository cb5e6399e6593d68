"""Limits of time, of bodies and of the queue; clients that go away; faults of our own."""

import asyncio
import base64
import json
import logging
import threading
import time
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest

from service.backends import backend_for
from service.registry import Registry
from service.settings import load_settings
from tests.api.conftest import metric, running
from tests.pictures import encode, photo
from tests.waiting import until

pytestmark = pytest.mark.anyio

PICTURE = encode(photo(), "JPEG")
FULL = {"task": "classify", "model": "tiny-colours", "version": "1", "variant": "full"}


class Gate:
    """A backend whose runs wait until they are let through, and fail when told to; the network behind it is real."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        self.failure: Exception | None = None
        self.runs = 0

    def load(self, card, variant, *, intra_op_threads):
        gate, model = self, backend_for(variant).load(card, variant, intra_op_threads=intra_op_threads)
        inner = model.run

        def run(batch: np.ndarray) -> np.ndarray:
            gate.entered.release()
            assert gate.open.wait(20)
            gate.runs += 1
            if gate.failure is not None:
                raise gate.failure
            return inner(batch)

        model.run = run
        return model


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def gated(anyio_backend, zoo, gate) -> AsyncIterator[httpx.AsyncClient]:
    """The service with one worker behind the gate, and room for two in its queue."""
    options = {"workers": 1, "queue_size": 2, "default_variant": "full"}
    registry = Registry(load_settings({"model_dir": zoo, **options}), find_backend=lambda _: gate)
    async with running(zoo, registry, **options) as client:
        gate.runs = 0
        while gate.entered.acquire(blocking=False):  # the warm-up's
            pass
        yield client
        gate.open.set()


async def held(client: httpx.AsyncClient, gate: Gate, count: int) -> list[asyncio.Task]:
    """One request in a run and the rest in the queue."""
    gate.open.clear()
    tasks = []
    for _ in range(count):
        tasks.append(asyncio.create_task(client.post("/classify", content=PICTURE)))
        if len(tasks) == 1:
            assert await asyncio.to_thread(gate.entered.acquire, timeout=10)
    await until(lambda: metric(client, "bireal_queue_depth") == count - 1)
    return tasks


# ---- the queue -------------------------------------------------------------------------------------------------------


async def test_a_full_queue_is_answered_429_and_nobody_else_suffers(gated, gate):
    tasks = await held(gated, gate, 3)
    started = time.monotonic()
    refused = await gated.post("/classify", content=PICTURE)
    assert time.monotonic() - started < 2
    assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    # another model's queue is its own
    other = asyncio.create_task(gated.post("/depth", content=PICTURE))
    await until(lambda: metric(gated, "bireal_queue_depth") == 3)
    gate.open.set()
    assert [response.status_code for response in await asyncio.gather(*tasks, other)] == [200] * 4
    assert metric(gated, "bireal_rejected_total", **FULL) == 1
    assert metric(gated, "bireal_requests_total", **FULL, kernel="onnxruntime", outcome="rejected") == 1
    assert metric(gated, "bireal_queue_depth") == 0
    assert metric(gated, "bireal_in_flight") == 0


async def test_several_images_are_admitted_together_or_not_at_all(gated, gate):
    tasks = await held(gated, gate, 2)
    files = [("file", (f"{i}.jpg", PICTURE, "image/jpeg")) for i in range(2)]
    refused = await gated.post("/classify", files=files)
    assert refused.status_code == 429
    assert metric(gated, "bireal_queue_depth") == 1
    assert metric(gated, "bireal_rejected_total", **FULL) == 2
    gate.open.set()
    assert [response.status_code for response in await asyncio.gather(*tasks)] == [200] * 2
    assert (await gated.post("/classify", files=files)).json()["count"] == 2


async def test_all_images_of_a_request_are_counted_that_is_refused_before_they_are_decoded(gated, gate):
    tasks = await held(gated, gate, 3)
    files = [("file", (f"{i}.jpg", PICTURE, "image/jpeg")) for i in range(2)]
    assert (await gated.post("/classify", files=files)).status_code == 429
    assert metric(gated, "bireal_rejected_total", **FULL) == 2
    assert metric(gated, "bireal_requests_total", **FULL, kernel="onnxruntime", outcome="rejected") == 2
    gate.open.set()
    assert [response.status_code for response in await asyncio.gather(*tasks)] == [200] * 3


async def test_the_open_inference_protocol_waits_in_the_same_queue(gated, gate):
    url, file = "/v2/models/tiny-colours/infer", {"name": "encoded_image", "shape": [1], "datatype": "BYTES"}
    document = {"inputs": [{**file, "data": [base64.b64encode(PICTURE).decode()]}]}
    tasks = await held(gated, gate, 2)
    late = await gated.post(url, json={**document, "parameters": {"timeout": 100_000}})
    assert (late.status_code, late.json().keys()) == (504, {"error"})
    assert metric(gated, "bireal_client_deadline_seconds_count", route="/v2/models/{model}/infer") == 1
    tasks.append(asyncio.create_task(gated.post(url, json=document)))
    await until(lambda: metric(gated, "bireal_queue_depth") == 2)
    refused = await gated.post(url, json=document)
    assert (refused.status_code, refused.json().keys()) == (429, {"error"})
    assert int(refused.headers["retry-after"]) >= 1
    gate.open.set()
    assert [response.status_code for response in await asyncio.gather(*tasks)] == [200] * 3


# ---- deadlines -------------------------------------------------------------------------------------------------------


async def test_a_deadline_that_passes_in_the_queue_is_answered_504(gated, gate):
    tasks = await held(gated, gate, 1)
    started = time.monotonic()
    asked = asyncio.create_task(gated.post("/classify", content=PICTURE, headers={"x-timeout-ms": "2000"}))
    await until(lambda: metric(gated, "bireal_queue_depth") == 1)
    late = await asked
    assert 1.9 < time.monotonic() - started < 10
    assert (late.status_code, late.json()["code"]) == (504, "deadline-exceeded")
    assert "2 s" in late.json()["detail"]
    assert late.json()["set_by"] == "client"
    own = {"route": "/classify"}
    assert metric(gated, "bireal_client_deadline_seconds_count", **own) == 1
    assert metric(gated, "bireal_client_deadline_seconds_bucket", **own, le="2.53") == 1
    assert metric(gated, "bireal_client_deadline_seconds_bucket", **own, le="0.748") == 0
    gate.open.set()
    assert (await tasks[0]).status_code == 200
    assert gate.runs == 1  # the late one never ran
    assert metric(gated, "bireal_expired_total", **FULL) == 1
    assert metric(gated, "bireal_requests_total", **FULL, kernel="onnxruntime", outcome="expired") == 1


async def test_the_service_has_a_limit_of_its_own(anyio_backend, zoo, gate):
    registry = Registry(load_settings({"model_dir": zoo}), find_backend=lambda _: gate)
    async with running(zoo, registry, default_timeout_s=0.2, default_variant="full") as client:
        gate.open.clear()
        for headers in ({}, {"x-timeout-ms": "60000"}):  # which a client cannot lengthen
            late = await client.post("/classify", content=PICTURE, headers=headers)
            assert late.status_code == 504
            assert "0.2 s" in late.json()["detail"]
            assert late.json()["set_by"] == "service"
        assert metric(client, "bireal_client_deadline_seconds_count", route="/classify") == 0
        gate.open.set()


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "soon", "", " ", "99999999999", "١", "0x10"])
async def test_a_deadline_that_is_none(client, value):
    headers = {"x-timeout-ms": value.encode()}
    response = await client.post("/classify", content=PICTURE, headers=headers)
    assert (response.status_code, response.json()["code"]) == (422, "bad-parameter")
    assert response.json()["parameter"] == "x-timeout-ms"
    assert "1 to 9999999999" in response.json()["detail"]  # of which the too large one is no number above 0


@pytest.mark.parametrize("value", ["200", "0000000000200", "0" * 5000 + "200"])
async def test_a_body_that_never_comes_is_given_up(client, value):
    async def trickle() -> AsyncIterator[bytes]:
        yield PICTURE[:100]
        await asyncio.sleep(30)

    started = time.monotonic()
    response = await client.post("/classify", content=trickle(), headers={"x-timeout-ms": value})
    assert 0.1 < time.monotonic() - started < 5
    assert (response.status_code, response.json()["code"]) == (408, "upload-timeout")


# ---- clients that go away --------------------------------------------------------------------------------------------


def scope_of(path: str, **headers: str) -> dict:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        "client": ("test", 1),
        "server": ("test", 80),
    }


async def test_a_client_that_leaves_the_queue_makes_room(gated, gate):
    tasks = await held(gated, gate, 1)
    gone = asyncio.Event()
    messages = iter([{"type": "http.request", "body": PICTURE, "more_body": False}])
    sent = []

    async def receive() -> dict:
        message = next(messages, None)
        if message is None:
            await gone.wait()
            return {"type": "http.disconnect"}
        return message

    async def send(message: dict) -> None:
        sent.append(message)

    leaving = asyncio.create_task(gated.app(scope_of("/classify"), receive, send))
    await until(lambda: metric(gated, "bireal_queue_depth") == 1)
    gone.set()
    await leaving
    assert sent == []
    assert metric(gated, "bireal_queue_depth") == 0
    assert metric(gated, "bireal_cancelled_total", **FULL) == 1
    assert metric(gated, "bireal_http_requests_total", method="POST", route="/classify", status="499") == 1
    gate.open.set()
    assert (await tasks[0]).status_code == 200
    assert gate.runs == 1


async def test_a_client_that_leaves_during_its_upload(client):
    messages = iter([{"type": "http.request", "body": PICTURE[:10], "more_body": True}, {"type": "http.disconnect"}])
    sent = []

    async def receive() -> dict:
        return next(messages)

    async def send(message: dict) -> None:
        sent.append(message)

    await client.app(scope_of("/classify"), receive, send)
    assert sent == []
    assert (await client.get("/readyz")).status_code == 200


# ---- bodies ----------------------------------------------------------------------------------------------------------


async def test_a_declared_length_above_the_limit_is_refused_before_anything_is_read(anyio_backend, zoo):
    async with running(zoo, max_body_bytes=1000) as client:
        sent = []

        async def receive() -> dict:
            assert len(sent) == 2, "the body was read before the answer was on its way"
            return {"type": "http.disconnect"}

        async def send(message: dict) -> None:
            sent.append(message)

        await client.app(scope_of("/classify", content_length="1001"), receive, send)
        assert sent[0]["status"] == 413
        problem = json.loads(sent[1]["body"])
        assert (problem["code"], problem["max_bytes"]) == ("body-too-large", 1000)


@pytest.mark.parametrize("content_type", ["image/jpeg", "multipart/form-data; boundary=x", "application/json"])
async def test_a_body_of_unknown_length_is_cut_off_at_the_limit(anyio_backend, zoo, content_type):
    async with running(zoo, max_body_bytes=100_000) as client:
        taken = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal taken
            if content_type.startswith("multipart"):
                yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            while taken < 50_000_000:
                taken += 10_000
                yield b"\xff" * 10_000

        async def application(scope, receive, send) -> None:
            async def watch(message: dict) -> None:
                if message["type"] == "http.response.start":
                    taken_before.append(taken)
                await send(message)

            await client.app(scope, receive, watch)

        taken_before: list[int] = []  # what comes after the answer is thrown away: tests/api/test_linger.py
        async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://t") as sender:
            response = await sender.post("/classify", content=endless(), headers={"content-type": content_type})
        assert (response.status_code, response.json()["code"]) == (413, "body-too-large")
        assert taken_before[0] <= 120_000


async def test_a_body_of_exactly_the_limit_is_read(anyio_backend, zoo):
    async with running(zoo, max_body_bytes=len(PICTURE)) as client:
        assert (await client.post("/classify", content=PICTURE)).status_code == 200
        assert (await client.post("/classify", content=PICTURE + b"\0")).status_code == 413


async def test_uploads_never_touch_the_disk(client, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))  # where opening a temporary file would fail
    big = encode(photo().resize((2000, 1400)), "BMP")
    assert len(big) > 8_000_000  # Starlette's own parser keeps 1 MB in memory
    response = await client.post("/classify?variant=full", files={"file": ("big.bmp", big, "image/bmp")})
    assert response.status_code == 200


# ---- faults of our own -----------------------------------------------------------------------------------------------


async def test_an_unforeseen_error_is_logged_and_tells_the_client_nothing(gated, gate, caplog):
    gate.failure = ZeroDivisionError("the password is swordfish")
    with caplog.at_level(logging.INFO):
        response = await gated.post("/classify", content=PICTURE, headers={"x-request-id": "fault-1"})
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["code"], problem["request_id"]) == ("internal-error", "fault-1")
    for secret in ("swordfish", "ZeroDivision", "Traceback", ".py"):
        assert secret not in response.text
    record = next(record for record in caplog.records if record.exc_info)
    assert record.fields == {"request_id": "fault-1"}
    gate.failure = None
    assert (await gated.post("/classify", content=PICTURE)).status_code == 200
    assert metric(gated, "bireal_requests_total", **FULL, kernel="onnxruntime", outcome="server_error") == 1
    assert metric(gated, "bireal_problems_total", code="internal-error") == 1


async def test_images_are_never_logged(client, caplog):
    marker = b"a-marker-in-the-image"
    with caplog.at_level(logging.DEBUG):
        await client.post("/classify", content=PICTURE + marker, headers={"x-request-id": "id-1"})
        await client.post("/classify", content=marker * 10)
        await client.post("/classify", files={"file": ("secret-name.jpg", PICTURE + marker, "image/jpeg")})
    text = "\n".join(
        f"{record.getMessage()} {record.__dict__}" for record in caplog.records if "service" in record.name
    )
    assert "id-1" in text
    assert "a-marker" not in text
    assert "secret-name" not in text


async def test_the_access_log_says_what_answered(client, caplog):
    with caplog.at_level(logging.INFO, logger="service.access"):
        await client.post("/classify?variant=full", content=PICTURE, headers={"x-request-id": "id-2"})
        await client.post("/classify?model=none", content=PICTURE)
    good, bad = (record.fields for record in caplog.records if record.name == "service.access")
    assert (good["request_id"], good["route"], good["status"]) == ("id-2", "/classify", 200)
    assert (good["model"], good["variant"]) == ("tiny-colours", "full")
    assert (bad["status"], bad["problem"]) == (404, "unknown-model")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"])
async def test_the_access_log_has_probes_only_when_debugging(client, caplog, path):
    with caplog.at_level(logging.DEBUG, logger="service.access"):
        await client.get(path)
        await client.get("/models")
    levels = {record.fields["route"]: record.levelno for record in caplog.records if record.name == "service.access"}
    assert levels == {path: logging.DEBUG, "/models": logging.INFO}


# ---- other origins ---------------------------------------------------------------------------------------------------


async def test_no_other_origin_by_default(client):
    response = await client.post("/classify", content=PICTURE, headers={"origin": "https://example.org"})
    assert "access-control-allow-origin" not in response.headers


async def test_origins_that_are_set(anyio_backend, zoo):
    async with running(zoo, cors_origins="https://example.org", max_body_bytes=100_000) as client:
        origin = {"origin": "https://example.org"}
        headers = "x-timeout-ms, inference-header-content-length, content-encoding"  # the latter two of binary tensors
        asked = {**origin, "access-control-request-method": "POST", "access-control-request-headers": headers}
        preflight = await client.options("/classify", headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://example.org"
        response = await client.post("/classify", content=PICTURE, headers=origin)
        assert response.headers["access-control-allow-origin"] == "https://example.org"
        exposed = response.headers["access-control-expose-headers"].split(", ")
        assert {"x-request-id", "inference-header-content-length"} <= set(exposed)
        # a page may read the errors too
        refused = await client.post("/classify", content=b"x" * 100_001, headers=origin)
        assert refused.status_code == 413
        assert refused.headers["access-control-allow-origin"] == "https://example.org"
        elsewhere = await client.post("/classify", content=PICTURE, headers={"origin": "https://example.com"})
        assert "access-control-allow-origin" not in elsewhere.headers
