"""Bodies that are a JSON document, at each route that takes one: their deadline, their limit, and what is wrong."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi.routing import APIRoute

from tests.api.conftest import metric, running
from tests.api.test_limits import scope_of

pytestmark = pytest.mark.anyio

ADMIN = "an-admin-key-for-tests-only-0123456789"
JSON = {"content-type": "application/json", "authorization": f"Bearer {ADMIN}"}
LIMIT = 1_000_000
ROUTES = {
    ("POST", "/feedback"): {"token": "a", "label": 0},
    ("PUT", "/admin/experiments/e"): {
        "name": "e",
        "task": "classify",
        "mode": "split",
        "baseline": {"variant": "full"},
        "candidate": {"variant": "binary"},
    },
    ("PATCH", "/admin/experiments/e"): {"state": "paused"},
}


def template(path: str) -> str:
    """The path as the route declares it."""
    return path.replace("experiments/e", "experiments/{name}")


@pytest.fixture(scope="module")
async def service(anyio_backend, zoo) -> AsyncIterator[httpx.AsyncClient]:
    async with running(zoo, admin_keys=ADMIN, max_body_bytes=LIMIT) as client:
        yield client


@pytest.fixture(scope="module")
async def hasty(anyio_backend, zoo) -> AsyncIterator[httpx.AsyncClient]:
    """For what is to run out of time: on a busy machine, the other requests would, too."""
    async with running(zoo, admin_keys=ADMIN, default_timeout_s=0.5) as client:
        yield client


@pytest.fixture(params=ROUTES, ids=lambda route: " ".join(route))
def route(request) -> tuple[str, str]:
    return request.param


async def test_a_body_that_stops_is_given_up_at_the_deadline(hasty, route):
    async def stopping() -> AsyncIterator[bytes]:
        yield b'{"token'
        await asyncio.sleep(30)

    async with asyncio.timeout(20):
        answer = await hasty.request(*route, content=stopping(), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (408, "upload-timeout")
    assert "0.5 s" in answer.json()["detail"]
    answer = await hasty.request(*route, content=stopping(), headers={**JSON, "x-timeout-ms": "50"})
    assert (answer.status_code, answer.json()["code"]) == (408, "upload-timeout")
    assert "0.05 s" in answer.json()["detail"]


async def test_a_body_of_unknown_length_is_cut_off_at_the_limit(service, route):
    async def long() -> AsyncIterator[bytes]:
        for _ in range(LIMIT // 10_000 + 1):
            yield b" " * 10_000

    answer = await service.request(*route, content=long(), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large")


async def test_a_client_that_leaves_during_its_body_is_no_malformed_body(service, route):
    method, path = route
    messages = iter([{"type": "http.request", "body": b'{"a', "more_body": True}, {"type": "http.disconnect"}])
    sent = []
    labels = {"method": method, "route": template(path), "status": "499"}
    problems = metric(service, "bireal_problems_total", code="malformed-body")

    async def receive() -> dict:
        return next(messages)

    async def send(message: dict) -> None:
        sent.append(message)

    headers = {"content_type": "application/json", "authorization": f"Bearer {ADMIN}"}
    await service.app({**scope_of(path, **headers), "method": method}, receive, send)
    assert sent == []
    assert metric(service, "bireal_http_requests_total", **labels) == 1
    assert metric(service, "bireal_problems_total", code="malformed-body") == problems


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "EOF while parsing an object at line 1 column 1"),
        (b'{"token": nonsense}', "at line 1 column 12"),
        (b"[" * 200_000, "recursion limit exceeded"),
        (b'{"label": ' + b"9" * 5000 + b"}", "number out of range"),
        (b"\xff\xfe{}", "it is not UTF-8 text"),
        ('{"token": "ä"}'.encode("latin-1"), "it is not UTF-8 text"),
        (rb'{"token": "\ud800"}', "at line 1 column"),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes) else None,
)
async def test_what_is_not_json_is_told_in_its_own_words(service, route, body, said):
    answer = await service.request(*route, content=body, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-body")
    assert said in answer.json()["detail"]
    assert ("UTF-8" in answer.json()["detail"]) == ("UTF-8" in said)
    assert "application/json" in answer.json()["help"]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
async def test_a_body_of_another_type_is_refused(service, route, kind):
    headers = {name: value for name, value in {**JSON, "content-type": kind}.items() if value is not None}
    answer = await service.request(*route, content=json.dumps(ROUTES[route]).encode(), headers=headers)
    assert (answer.status_code, answer.json()["code"], answer.json()["parameter"]) == (422, "bad-parameter", "body")
    assert answer.json()["detail"] == "The body is not a JSON object."
    assert "Content-Type: application/json" in answer.json()["help"]


@pytest.mark.parametrize("body", [b"", b"[]", b"0", b'"text"', b"null"])
async def test_a_body_that_is_no_object(service, route, body):
    answer = await service.request(*route, content=body, headers=JSON)
    assert (answer.status_code, answer.json()["code"], answer.json()["parameter"]) == (422, "bad-parameter", "body")
    assert answer.json()["detail"] == ("The body is not a JSON object." if body else "The body is empty.")


@pytest.mark.parametrize("padding", [0, 500_000], ids=["small", "parsed in a thread"])
async def test_members_are_checked_and_named(service, route, padding):
    document = json.dumps(ROUTES[route])
    space = " " * padding
    unknown = await service.request(*route, content=document[:-1] + space + ', "x": 1}', headers=JSON)
    assert (unknown.status_code, unknown.json()["code"], unknown.json()["parameter"]) == (422, "bad-parameter", "x")
    assert unknown.json()["detail"] == "The body must not have a member 'x'."
    first = next(iter(ROUTES[route]))
    doubled = await service.request(*route, content=document[:-1] + space + f', "{first}": "a"}}', headers=JSON)
    assert (doubled.status_code, doubled.json()["parameter"]) == (422, first)
    assert "more than once" in doubled.json()["detail"]


async def test_a_member_of_another_type_is_told_in_the_words_of_json(service):
    path = "/admin/experiments/e"
    document = {**ROUTES["PUT", path], "baseline": "full"}
    answer = await service.put(path, content=json.dumps(document).encode(), headers=JSON)
    assert (answer.status_code, answer.json()["parameter"]) == (422, "baseline")
    assert answer.json()["detail"] == "The body's member baseline='full': Input should be an object."


async def test_a_compressed_body_is_refused_as_such(service, route):
    body = gzip.compress(json.dumps(ROUTES[route]).encode())
    answer = await service.request(*route, content=body, headers={**JSON, "content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-encoding")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"])
async def test_documents_that_are_read(service, kind):
    method, path = "PUT", "/admin/experiments/e"
    declared = {**ROUTES[method, path], "description": "ä"}
    for body in (json.dumps(declared, ensure_ascii=False).encode(), b"\xef\xbb\xbf" + json.dumps(declared).encode()):
        answer = await service.request(method, path, content=body, headers={**JSON, "content-type": kind})
        assert answer.status_code == 200, answer.text
        assert answer.json()["description"] == "ä"


async def test_the_framework_reads_no_body(service):
    """It would read without a deadline."""
    routers = [getattr(route, "original_router", None) for route in service.app.routes]
    routes = [route for router in routers if router is not None for route in router.routes]
    routes += service.app.routes
    found = [route for route in routes if isinstance(route, APIRoute)]
    assert {route.path for route in found} > {"/feedback", "/admin/experiments/{name}"}
    assert [route.path for route in found if route.body_field is not None] == []


async def test_the_openapi_document_describes_the_bodies(service):
    document = (await service.get("/openapi.json")).json()
    names = {"/feedback": "Feedback", "PUT": "Declaration", "PATCH": "Change"}
    for method, path in ROUTES:
        operation = document["paths"][template(path)][method.lower()]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert schema == names.get(path, names.get(method))
        assert set(ROUTES[method, path]) <= set(document["components"]["schemas"][schema]["properties"])
    text = json.dumps(document)
    for reference in {part.partition('"')[0] for part in text.split('"#/components/schemas/')[1:]}:
        assert reference in document["components"]["schemas"]
