"""What careless clients send beside bad pictures and bad values: doubled, compressed, no JSON, asked again."""

import gzip
import io
import json

import pytest
from PIL import Image

from service.errors import FeedbackStoreError, NotReadyError, OverloadedError
from tests.api.conftest import running
from tests.pictures import encode, photo

pytestmark = pytest.mark.anyio

PICTURE = encode(photo(), "JPEG")
JSON = {"content-type": "application/json"}
ADMIN = {"x-api-key": "an-admin-key-of-enough-characters"}


def refusal(response, status: int, code: str) -> dict:
    """The problem document, whose kind can be looked up."""
    document = response.json()
    assert (response.status_code, document["code"]) == (status, code), document
    assert response.headers["content-type"] == "application/problem+json"
    return document


# ---- queries and headers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["/classify?top_k=1&top_k=2", "/depth?size=network&size=network", "/compare/classify?a=full&a=binary"]
)
async def test_a_parameter_that_is_sent_twice(client, url):
    document = refusal(await client.post(url, content=PICTURE), 422, "bad-parameter")
    assert document["parameter"] in url
    assert "2 times" in document["detail"]


@pytest.mark.parametrize("path", ["/classify", "/compare/classify"])
@pytest.mark.parametrize("given", ["1_0", "%203", "3.0", "%2B3", "", "\u0663"])
async def test_a_whole_number_is_plain_digits(client, path, given):
    document = refusal(await client.post(f"{path}?top_k={given}", content=PICTURE), 422, "bad-parameter")
    assert document["parameter"] == "top_k"
    assert "digits 0 to 9 only" in document["detail"]


async def test_every_whole_number_of_a_query_is_plain_digits(client):
    """One that is added has to be named here, and to have `PLAIN_DIGITS`."""
    paths = (await client.get("/openapi.json")).json()["paths"]
    found = {
        (path, parameter["name"], parameter["schema"]["minimum"])
        for path, methods in paths.items()
        for operation in methods.values()
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query" and parameter["schema"].get("type") == "integer"
    }
    assert found == {("/classify", "top_k", 1), ("/compare/classify", "top_k", 1)}


async def test_a_parameter_of_administration_that_is_sent_twice(anyio_backend, zoo):
    async with running(zoo, admin_keys=list(ADMIN.values())) as client:
        url = "/admin/models/tiny-ramp/unload?version=1&version=2"
        document = refusal(await client.post(url, headers=ADMIN), 422, "bad-parameter")
        assert document["parameter"] == "version"
        assert "2 times" in document["detail"]


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("POST", "/admin/models/tiny-colours/unload?versoin=2&force=true"),
        ("POST", "/admin/models/tiny-colours/reload?force=true"),
        ("PUT", "/admin/models/tiny-colours/labels/stable?verison=1"),
        ("GET", "/admin/models?name=tiny-colours"),
        ("PATCH", "/admin/experiments/x?weight=0.5"),
        ("POST", "/feedback?label=1"),
        ("POST", "/v2/models/tiny-colours/infer?variant=full"),
        ("POST", "/v2/models/tiny-colours/versions/1/infer?variant=full"),
        ("POST", "/v2/repository/models/tiny-colours/unload?version=2"),
    ],
)
async def test_a_parameter_that_the_path_does_not_have_is_not_passed_over(anyio_backend, zoo, method, url):
    async with running(zoo, admin_keys=list(ADMIN.values())) as client:
        response = await client.request(method, url, json={}, headers=ADMIN)
        assert response.status_code == 422
        said = response.json()
        sentence = said["error"] if url.startswith("/v2") else f"{said['detail']} {said['help']}"
        assert f"no query parameter {url.partition('?')[2].partition('=')[0]!r}" in sentence
        assert "It accepts" in sentence
        assert (await client.get("/v2/models/tiny-colours/ready")).status_code == 200
        assert (await client.get("/v2/health/ready?t=1")).status_code == 200


@pytest.mark.parametrize(
    ("method", "url", "body", "meant"),
    [
        ("POST", "/classify?varient=full", None, "variant"),
        ("POST", "/classify?x=1&TOP_K=2", None, "top_k"),
        ("POST", "/compare/depth?forma=error_map", None, "format"),
        ("POST", "/admin/models/tiny-colours/unload?versoin=2", None, "version"),
        ("POST", "/feedback", {"token": "a", "lable": 1}, "label"),
        ("PATCH", "/admin/experiments/x", {"wieght": 0.5}, "weight"),
        ("POST", "/classify?no_such=1", None, None),
        ("POST", "/classify?" + "variant" * 1000, None, None),
        ("PUT", "/admin/experiments/x", {"baseline": {"baselime": "full"}}, None),
    ],
)
async def test_a_misspelt_name_is_answered_with_the_one_that_was_meant(anyio_backend, zoo, method, url, body, meant):
    async with running(zoo, admin_keys=list(ADMIN.values())) as client:
        document = refusal(await client.request(method, url, json=body, headers=ADMIN), 422, "bad-parameter")
    assert document["help"].startswith(f"Did you mean {meant!r}? ") if meant else "Did you mean" not in document["help"]


async def test_a_parameter_without_a_name(client):
    document = refusal(await client.post("/classify?=1", content=PICTURE), 422, "bad-parameter")
    assert document["detail"] == "There is no query parameter ''."


@pytest.mark.parametrize("path", ["/classify", "/compare/depth", "/feedback/depth", "/v2/models/tiny-colours/infer"])
async def test_two_deadlines_are_none(client, path):
    response = await client.post(path, content=PICTURE, headers=[("x-timeout-ms", "9000"), ("X-Timeout-Ms", "8000")])
    assert response.status_code == 422
    assert "x-timeout-ms is there more than once" in response.text


@pytest.mark.parametrize("size", [(1, 20_000), (60_000, 1)])
async def test_a_strip_is_too_narrow_for_a_scale_bar(client, size):
    body = io.BytesIO()
    Image.new("L", size).save(body, "PNG")
    url = "/depth?variant=full&format=color&size=original"
    document = refusal(await client.post(url, content=body.getvalue()), 422, "bad-parameter")
    assert (document["parameter"], "scale_bar=false" in document["help"]) == ("scale_bar", True)
    plain = await client.post(f"{url}&scale_bar=false", content=body.getvalue())
    assert (plain.status_code, plain.headers["content-type"]) == (200, "image/png")
    with Image.open(io.BytesIO(plain.content)) as image:
        assert image.size == size


async def test_accept_in_two_headers_is_one_list(client):
    response = await client.post(
        "/depth?variant=full", content=PICTURE, headers=[("accept", "text/html"), ("accept", "image/png")]
    )
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    both = [("accept", "text/html"), ("accept", "application/openmetrics-text;version=1.0.0")]
    assert "openmetrics" in (await client.get("/metrics", headers=both)).headers["content-type"]


async def test_what_answers_get_says_that_it_answers_head(client):
    response = await client.delete("/models")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
    assert (await client.head("/models")).status_code == 200
    assert (await client.get("/classify")).headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/classify", "/depth", "/compare/depth", "/feedback/depth"])
@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP, gzip"])
async def test_a_compressed_body_is_named_as_such(client, path, encoding):
    response = await client.post(path, content=gzip.compress(PICTURE), headers={"content-encoding": encoding})
    refusal(response, 415, "unsupported-encoding")
    assert response.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("encoding", ["gzip", "br"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/feedback"), ("PUT", "/admin/experiments/x")])
async def test_a_compressed_body_of_json_is_named_as_such(anyio_backend, zoo, method, path, encoding):
    async with running(zoo, admin_keys=list(ADMIN.values())) as client:
        headers = {**JSON, **ADMIN, "content-encoding": encoding}
        body = gzip.compress(json.dumps({"token": "a", "label": 1}).encode())
        response = await client.request(method, path, content=body, headers=headers)
        refusal(response, 415, "unsupported-encoding")
        assert response.headers["accept-encoding"] == "identity"


async def test_a_body_that_says_that_it_is_not_compressed(client):
    response = await client.post("/classify?variant=full", content=PICTURE, headers={"content-encoding": "Identity"})
    assert response.status_code == 200


# ---- bodies of JSON --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"{", b"", b"\xff", b'{"token": "\xff"}', b"[]", b"null", b"{}", b'{"x": 1}'])
@pytest.mark.parametrize(("method", "path"), [("POST", "/feedback"), ("PUT", "/admin/experiments/x")])
async def test_what_is_wrong_with_a_json_body(anyio_backend, zoo, method, path, body):
    async with running(zoo, admin_keys=list(ADMIN.values())) as client:
        response = await client.request(method, path, content=body, headers={**JSON, **ADMIN})
        document = response.json()
        assert (response.status_code, document["code"]) in {(400, "malformed-body"), (422, "bad-parameter")}
        assert "application/json" in document["help"]
        assert "Field required" not in document["detail"]
        assert (await client.get(document["type"])).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "member"),
    [
        ("POST", "/feedback", b'{"token": "a", "label": 1, "label": 2}', "label"),
        ("POST", "/feedback", b'{"token": "a", "label": 1, "lab\\u0065l": 1}', "label"),
        ("POST", "/feedback", b'{"token": "a", "label": 1, "label": 2}' + b" " * 300_000, "label"),
        ("PUT", "/admin/experiments/x", b'{"name": "x", "baseline": {"variant": "full", "variant": "x"}}', "variant"),
        ("PATCH", "/admin/experiments/x", b'{"weight": 0.1, "weight": 0.2}', "weight"),
        ("POST", "/classify", b'{"image": "aGk=", "image": "aGk="}', "image"),
        ("POST", "/depth", b'{"image": 1, "im\\u0061ge": "aGk="}', "image"),
    ],
)
async def test_a_member_that_is_sent_twice(anyio_backend, zoo, method, path, body, member):
    async with running(zoo, admin_keys=list(ADMIN.values())) as client:
        response = await client.request(method, path, content=body, headers={**JSON, **ADMIN})
        document = refusal(response, 422, "bad-parameter")
        assert document["parameter"] == member
        assert "more than once" in document["detail"]


async def test_json_without_its_media_type(client):
    response = await client.post("/feedback", content=b'{"token": "a", "label": 1}')
    document = refusal(response, 422, "bad-parameter")
    assert document["detail"] == "The body is not a JSON object."
    assert "Content-Type: application/json" in document["help"]


async def test_a_missing_member_is_named(client):
    response = await client.post("/feedback", json={"label": 1})
    document = refusal(response, 422, "bad-parameter")
    assert (document["detail"], document["parameter"]) == ("The body's member 'token' is missing.", "token")


@pytest.mark.parametrize("label", ["null", "true", "1.5", "-1", "{}", "NaN", '""', json.dumps("x" * 201)])
async def test_a_label_that_can_be_none(client, label):
    body = b'{"token": "a", "label": %s}' % label.encode()
    document = refusal(await client.post("/feedback", content=body, headers=JSON), 422, "bad-parameter")
    assert document["parameter"] == "label"
    assert document["detail"].count("label") == 1
    assert "WordNet id" in document["detail"]


async def test_a_part_of_the_depth_form_twice(client):
    files = [("picture", ("p", PICTURE)), ("truth", ("t", b"x"))]
    response = await client.post("/feedback/depth", data={"token": ["a", "b"]}, files=files)
    assert "twice" in refusal(response, 422, "bad-parameter")["detail"]


# ---- coming back -----------------------------------------------------------------------------------------------------


async def test_a_file_that_the_browser_has_already(client):
    first = await client.get("/ui/page.css")
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = await client.get("/ui/page.css", headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        assert "max-age" in again.headers["cache-control"]
    assert (await client.get("/ui/page.css", headers={"if-none-match": '"other"'})).content == first.content


async def test_when_to_come_back(anyio_backend, tmp_path):
    async with running(tmp_path) as client:
        for response in (await client.get("/readyz"), await client.post("/classify", content=PICTURE)):
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) >= 1
    for error in (NotReadyError("x"), FeedbackStoreError("x"), OverloadedError(1, 0.0, "network")):
        assert int(error.headers["Retry-After"]) >= 1
