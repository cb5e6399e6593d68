"""A picture is counted once, when it is decoded, and gone from memory once its request is answered or refused."""

import asyncio
import base64
import gc
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from service.pipeline import Upload
from service.pipeline.threads import _Call
from tests.api.conftest import metric, running
from tests.pictures import encode, photo

pytestmark = pytest.mark.anyio

PICTURE = encode(photo(), "JPEG")
BROKEN = PICTURE[: len(PICTURE) // 2]
V2 = "/v2/models/tiny-colours/infer"


@pytest.fixture
async def service(anyio_backend, zoo) -> AsyncIterator[httpx.AsyncClient]:
    async with running(zoo, default_variant="full", decode_threads=1) as client:
        yield client


def document(*pictures: bytes) -> dict:
    data = [base64.b64encode(picture).decode() for picture in pictures]
    return {"inputs": [{"name": "encoded_image", "shape": [len(data)], "datatype": "BYTES", "data": data}]}


def files(*pictures: bytes) -> list:
    return [("file", (f"{number}.jpg", picture, "image/jpeg")) for number, picture in enumerate(pictures)]


def uploads() -> int:
    """What holds pictures and bodies: uploads, and calls that were handed to a thread with them."""
    return sum(type(each) in {Upload, _Call} for each in gc.get_objects())


@pytest.mark.parametrize(
    ("path", "request_", "status"),
    [
        ("/classify", {"content": PICTURE}, 200),
        ("/classify", {"content": b"no picture"}, 415),
        ("/classify", {"content": BROKEN}, 422),
        ("/classify", {"files": files(PICTURE, BROKEN)}, 200),
        ("/depth?fx=1000000", {"content": PICTURE}, 422),
        ("/depth?fx=1000000", {"files": files(PICTURE, PICTURE)}, 200),
        ("/depth?format=color&near=1&far=1", {"content": PICTURE}, 422),
        ("/compare/classify?a=full&b=full", {"content": BROKEN}, 422),
        (V2, {"json": document(b"no picture")}, 415),
        (V2, {"json": document(PICTURE, BROKEN)}, 422),
        (V2, {"json": {"inputs": []}}, 400),
    ],
)
async def test_no_request_leaves_its_picture_to_the_collector(service, path, request_, status):
    for _ in range(2):  # what is made at the first use stays
        assert (await service.post(path, **request_)).status_code == status
    gc.collect()
    gc.disable()
    try:
        before = uploads()
        for _ in range(5):
            assert (await service.post(path, **request_)).status_code == status
        patience = time.monotonic() + 10  # for a thread that has yet to return from its call
        while (left := uploads() - before) > 0 and time.monotonic() < patience:  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0.1)
        assert left <= 0
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("path", "request_", "status", "count"),
    [
        ("/classify", {"content": PICTURE}, 200, 1),
        ("/classify", {"content": BROKEN}, 422, 0),
        ("/classify", {"files": files(PICTURE, BROKEN, PICTURE)}, 200, 2),
        ("/depth?fx=1000000", {"content": PICTURE}, 422, 1),
        ("/compare/classify?a=full&b=full", {"content": PICTURE}, 200, 1),
        ("/compare/depth?a=full&b=full", {"content": PICTURE}, 200, 1),
        (V2, {"json": document(PICTURE, PICTURE)}, 200, 2),
    ],
)
async def test_a_picture_is_counted_once_when_it_is_decoded(service, path, request_, status, count):
    assert (await service.post(path, **request_)).status_code == status
    assert metric(service, "bireal_images_total", format="JPEG", converted="false") == count
