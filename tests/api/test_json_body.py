"""Pictures in base64 inside JSON: the same answer, the same limits."""

import base64
import json

import pytest

from tests.api.conftest import running
from tests.pictures import encode, photo

pytestmark = pytest.mark.anyio

PICTURE = encode(photo(), "JPEG")
TEXT = base64.b64encode(PICTURE).decode()
HEADERS = {"content-type": "application/json"}
LINES = "\n".join(TEXT[i : i + 76] for i in range(0, len(TEXT), 76))


@pytest.mark.parametrize("path", ["/classify", "/depth", "/compare/classify", "/compare/depth"])
@pytest.mark.parametrize("text", [TEXT, LINES, "data:image/jpeg;base64," + TEXT], ids=["plain", "lines", "data-url"])
async def test_the_answer_is_that_to_the_picture_itself(client, path, text):
    plain = (await client.post(path, content=PICTURE)).json()
    packed = await client.post(path, json={"image": text})
    assert packed.status_code == 200, packed.text
    for key in ("predictions", "median_m", "rows", "agree", "image"):
        assert packed.json().get(key) == plain.get(key)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "empty-body"),
        (b"{", 400, "malformed-body"),
        (b"\xff\xfe{}", 400, "malformed-body"),
        (b"[" * 100_000, 400, "malformed-body"),
        (b'{"image": NaN}', 422, "bad-parameter"),
        (b"[]", 422, "bad-parameter"),
        (b"null", 422, "bad-parameter"),
        (b"{}", 422, "bad-parameter"),
        (b'{"image": 3}', 422, "bad-parameter"),
        (b'{"image": ["aGk="]}', 422, "bad-parameter"),
        (b'{"image": "aGk=", "top_k": 3}', 422, "bad-parameter"),
        (b'{"image": ""}', 400, "empty-body"),
        (b'{"image": "a"}', 400, "malformed-body"),
        (b'{"image": "a-_="}', 400, "malformed-body"),
        ('{"image": "äöü"}'.encode(), 400, "malformed-body"),
        (b'{"image": "http://example.com/x.jpg"}', 400, "malformed-body"),
        (b'{"image": "aGk="}', 415, "unsupported-image"),
        (json.dumps({"image": base64.b64encode(PICTURE[:3000]).decode()}).encode(), 422, "broken-image"),
    ],
)
async def test_refusals(client, body, status, code):
    response = await client.post("/classify", content=body, headers=HEADERS)
    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_the_text_is_read_as_that_of_any_document(client):
    body = b"\xef\xbb\xbf" + json.dumps({"image": TEXT}).encode()
    assert (await client.post("/classify", content=body, headers=HEADERS)).status_code == 200
    response = await client.post("/classify", content=body.decode().encode("utf-16"), headers=HEADERS)
    assert response.json()["detail"] == "The body is not JSON: it is not UTF-8 text."
    assert "UTF-8" in response.json()["help"]


async def test_the_limit_of_bodies_holds(zoo):
    async with running(zoo, max_body_bytes=10_000) as client:
        response = await client.post("/classify", json={"image": TEXT})
        assert response.status_code == 413
