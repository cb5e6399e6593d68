"""What a request is answered does not depend on whether the framework read its parameters or the direct route did."""

import json

import fastapi.routing
import httpx
import pytest

from service.api import direct, predict, wire
from tests.api.conftest import running
from tests.pictures import encode, photo

pytestmark = pytest.mark.anyio

_ARMS = {"baseline": {"variant": "full"}, "candidate": {"variant": "binary"}}
#: Differs between two answers to the same request.
_VOLATILE = ("request_id", "timings_ms", "feedback_token")


async def both(client, monkeypatch, target, headers=()) -> list[httpx.Response]:
    """The answers to one request: of the direct way, and of the framework's."""
    picture = encode(photo(), "PNG")
    ours = await client.post(target, content=picture, headers=headers)
    with monkeypatch.context() as patch:
        patch.setattr(direct, "_query", lambda *_: None)
        return [ours, await client.post(target, content=picture, headers=headers)]


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/classify", {}),
        ("/classify?variant=full&top_k=2&min_probability=0.9", {}),
        ("/classify?top_k=+2", {}),
        ("/classify?top_k=2&top_k=3", {}),
        ("/classify?top_k=0", {}),
        ("/classify?top_k=", {}),
        ("/classify?top_k=many&min_probability=nan", {}),
        ("/classify?model=", {}),
        ("/classify?no_such=1", {}),
        ("/classify?%FF=%00", {}),
        ("/classify?top_k=0", {"x-timeout-ms": "soon"}),
        ("/classify", {"x-timeout-ms": "30000", "x-bireal-subject": "camera-7"}),
        ("/classify", {"x-timeout-ms": ""}),
        ("/classify", {"x-bireal-subject": "two words"}),
        ("/depth?fx=500&size=original", {}),
        ("/depth?fx=inf", {}),
        ("/depth?format=gif&size=huge", {}),
    ],
)
async def test_both_ways_answer_alike(client, monkeypatch, target, headers):
    ours, theirs = await both(client, monkeypatch, target, headers)
    assert ours.status_code == theirs.status_code
    assert ours.headers.keys() == theirs.headers.keys()
    assert _lasting(ours) == _lasting(theirs)


async def test_both_ways_take_repeated_headers_alike(client, monkeypatch):
    for values, status in (
        (("30000", "none"), 422),
        (("none", "30000"), 422),
        (("30000", "20000"), 422),
        (("30000", "30000"), 200),
    ):
        ours, theirs = await both(client, monkeypatch, "/classify", [("x-timeout-ms", value) for value in values])
        assert ours.status_code == theirs.status_code == status
        if values[0] != values[1]:
            assert "more than once, with different values" in ours.json()["detail"]


@pytest.mark.parametrize(("query", "framework"), [("", 0), ("top_k=2", 0), ("top_k=0", 1), ("top_k=1&top_k=2", 1)])
async def test_only_a_request_that_does_not_fit_goes_through_the_framework(client, monkeypatch, query, framework):
    asked = []

    async def watched(**arguments):
        asked.append(arguments["request"].url.query)
        return await solve(**arguments)

    solve = fastapi.routing.solve_dependencies
    monkeypatch.setattr(fastapi.routing, "solve_dependencies", watched)
    await client.post(f"/classify?{query}", content=encode(photo(), "PNG"))
    assert asked == [query] * framework


async def test_an_ordinary_request_never_reaches_the_frameworks_router(client, monkeypatch):
    reached = []

    async def watched(scope, receive, send):
        reached.append(scope["path"])
        await route(scope, receive, send)

    router = client.app.router
    route = router.middleware_stack
    monkeypatch.setattr(router, "middleware_stack", watched)
    for target in ("/classify", "/depth?fx=500", "/classify?top_k=0"):
        await client.post(target, content=encode(photo(), "PNG"))
    await client.get("/classify")
    assert reached == ["/classify", "/classify"], "the one that does not fit, and the one with another method"


@pytest.mark.parametrize("experiments", [[], [{"name": "e", "task": "classify", "mode": "paired"}]])
async def test_the_body_is_what_the_wire_types_would_say(zoo, tmp_path, monkeypatch, experiments):
    compared = []

    def both_bodies(answer, context):
        ours = wire.classify_body(answer, context)
        assert ours == wire.classify_answer(answer, context).model_dump_json().encode()
        compared.append(json.loads(ours)["experiment"])
        return ours

    monkeypatch.setattr(predict, "classify_body", both_bodies)
    declared = tmp_path / "experiments.yaml"
    declared.write_text(json.dumps({"experiments": [{**one, **_ARMS} for one in experiments]}))
    async with running(zoo, experiments_file=declared, default_classify_model="tiny-bireal") as ready:
        for name, query in (("PNG", ""), ("JPEG", "?top_k=3&min_probability=1"), ("GIF", "?variant=full")):
            response = await ready.post(f"/classify{query}", content=encode(photo(), name))
            assert response.status_code == 200, response.text
    part = {"name": "e", "mode": "paired", "arm": "full"} if experiments else None
    assert compared == [part, part, None]


def test_an_endpoint_of_another_shape_is_refused():
    async def endpoint(query: int) -> None: ...

    with pytest.raises(TypeError, match="endpoint takes"):
        direct.DirectRoute("/", endpoint, methods=["POST"])


def _lasting(response: httpx.Response) -> dict:
    """The answer without what is of one request only."""
    return {name: value for name, value in response.json().items() if name not in _VOLATILE}
