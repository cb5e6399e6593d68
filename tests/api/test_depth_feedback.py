"""Feedback on depth: maps of ground truth, which are scored by the network's answer to the same picture."""

import asyncio
import io
import json

import numpy as np
import pytest
from PIL import Image

from service.registry import Registry
from service.settings import load_settings
from tests.api.conftest import metric, running
from tests.api.test_experiments import OPTIONS, ask, declare, experiment, found_when
from tests.api.test_feedback import colour, tell, token_for
from tests.api.test_limits import Gate
from tests.pictures import encode
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def service(anyio_backend, zoo, op):
    async with running(zoo, **OPTIONS) as client:
        yield client


def road():
    return encode(Image.new("RGB", (160, 48), "grey"), "PNG")


def npy(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def png16(values_m):
    return encode(Image.fromarray((values_m * 256).astype(np.uint16)), "PNG")


async def ask_depth(client, query="variant=full"):
    answer = await ask(client, road(), f"/depth?model=tiny-bireal-depth&size=original&format=npy&{query}")
    return answer.headers["x-bireal-feedback-token"], np.load(io.BytesIO(answer.content))


async def tell_depth(client, token, truth, content=None, kind="image/png"):
    files = {"picture": ("road.png", content or road(), kind), "truth": ("truth", truth)}
    return await client.post("/feedback/depth", data={"token": token}, files=files)


@pytest.mark.parametrize("write", [npy, png16])
async def test_depth_is_measured_again_and_scored_by_the_evaluations_code(service, write):
    token, map_m = await ask_depth(service)
    exact = await tell_depth(service, token, write(map_m))
    assert exact.status_code == 201, exact.text
    assert exact.json()["abs_rel"] == pytest.approx(0, abs=1e-3)  # 16-bit steps are 4 mm
    assert exact.json()["delta1"] == 1
    token, map_m = await ask_depth(service)
    told = (await tell_depth(service, token, write(map_m * 2))).json()
    assert told["abs_rel"] == pytest.approx(0.5, abs=2e-3)
    assert told["delta1"] == 0
    assert (await tell_depth(service, token, write(map_m * 2))).json()["status"] == "repeated"
    assert (await tell_depth(service, token, write(map_m * 3))).status_code == 409


async def test_feedback_that_comes_at_a_busy_moment_is_no_refused_one(anyio_backend, zoo):
    """Depth is computed again, in the queue of all requests; it was counted as if what the client sent were wrong."""
    gate = Gate()
    options = {"workers": 1, "queue_size": 1, "default_variant": "full"}
    registry = Registry(load_settings({"model_dir": zoo, **options}), find_backend=lambda _: gate)
    async with running(zoo, registry, **options) as client:
        token, map_m = await ask_depth(client)
        gate.open.clear()
        while gate.entered.acquire(blocking=False):  # the warm-up's and the answer's
            pass
        first = asyncio.create_task(ask_depth(client))
        assert await asyncio.to_thread(gate.entered.acquire, timeout=10)
        waiting = [first, asyncio.create_task(ask_depth(client))]
        await until(lambda: metric(client, "bireal_queue_depth") == 1)
        assert (await tell_depth(client, token, npy(map_m))).status_code == 429
        gate.open.set()
        await asyncio.gather(*waiting)
        assert metric(client, "bireal_feedback_total", task="depth", outcome="refused") == 0
        assert (await tell_depth(client, token, npy(map_m))).status_code == 201


async def test_a_pictures_declared_type_is_taken_as_everywhere(service):
    token, map_m = await ask_depth(service)
    refused = await tell_depth(service, token, npy(map_m), kind="text/plain")
    assert (refused.status_code, refused.json()["code"]) == (415, "unsupported-image")
    taken = await tell_depth(service, token, npy(map_m), kind="application/x-www-form-urlencoded")  # as curl's default
    assert taken.status_code == 201, taken.text


async def test_a_focal_length_is_part_of_what_is_scored(service):
    token, map_m = await ask_depth(service, "variant=full&fx=200")
    assert (await tell_depth(service, token, npy(map_m))).json()["abs_rel"] == pytest.approx(0, abs=1e-5)


async def test_both_arms_of_a_depth_experiment_are_scored(anyio_backend, zoo, tmp_path, op):
    declared = {**experiment("paired"), "task": "depth", "model": "tiny-bireal-depth"}
    async with running(zoo, experiments_file=declare(tmp_path, declared), **OPTIONS) as client:
        for _ in range(4):
            token, map_m = await ask_depth(client, "")
            assert (await tell_depth(client, token, npy(map_m))).status_code == 201
        found = await found_when(
            client, "paired-test", lambda found: [arm["labelled"] for arm in found["results"]["arms"]] == [4, 4]
        )
        full, binary = found["results"]["arms"]
        assert full["accuracy"]["estimate"] == 1
        assert binary["accuracy"]["estimate"] < 0.9
        assert binary["abs_rel"]["estimate"] > 0.1
        assert found["results"]["evidence"]["difference"]["estimate"] == pytest.approx(
            binary["accuracy"]["estimate"] - 1
        )


def _header(shape, length=None, descr="'<f4'"):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    body = text.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body + b"\0" * (length or 16)


@pytest.mark.parametrize(
    "truth",
    [
        npy(np.ones((48, 161), np.float32)),
        npy(np.ones((48, 160), np.int32)),
        npy(np.zeros((48, 160), np.float32)),
        npy(np.full((48, 160), np.nan, np.float32)),
        npy(np.full((48, 160), 500, np.float32)),
        npy(np.ones((48, 160), np.float32))[:-4],
        _header("(48, 160)"),
        _header("(100000000, 100000000)"),
        _header("()"),
        _header("(48, 160"),
        _header("(48, 160)", descr="('<f4',)"),
        _header("(48, 160)", descr="'V4,('"),
        _header("{[]: 1}"),
        b"\x93NUMPY\x01\x00",
        npy(np.array([[b"pickled"]], dtype=object)),
        encode(Image.new("RGB", (160, 48)), "PNG"),
        png16(np.ones((48, 159))),
        png16(np.ones((48, 160)))[:-60],
        b"not a picture",
    ],
    ids=lambda value: repr(value[:24]),
)
async def test_ground_truths_that_are_none(service, truth):
    token, _ = await ask_depth(service)
    answer = await tell_depth(service, token, truth)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad-ground-truth"), answer.text


async def test_another_picture_cannot_be_scored(service):
    token, map_m = await ask_depth(service)
    other = encode(Image.new("RGB", (160, 48), "white"), "PNG")
    answer = await tell_depth(service, token, npy(map_m), other)
    assert answer.json()["code"] == "bad-ground-truth"
    assert "byte for byte" in answer.json()["help"]
    classified = await token_for(service, colour("red"))
    assert (await tell_depth(service, classified, npy(map_m))).json()["help"] == "Send it to /feedback."
    assert (await tell(service, token, 1)).json()["help"] == "Send it to /feedback/depth."


async def test_forms_that_are_none(service):
    token, map_m = await ask_depth(service)
    good = {"picture": ("a", road()), "truth": ("b", npy(map_m))}
    for data, files, code, parameter in (
        ({}, good, "bad-parameter", "token"),
        ({"token": token}, {"picture": good["picture"]}, "bad-parameter", "truth"),
        ({"token": token}, {**good, "more": ("c", b"x")}, "malformed-body", None),
        ({"token": token, "more": "x"}, good, "bad-parameter", "more"),
        ({"token": [token, token]}, good, "bad-parameter", "body"),
        ({"token": token, "truth": "text"}, {"picture": good["picture"]}, "bad-parameter", "truth"),
        ({"token": token}, {**good, "truth": ("b", b"")}, "empty-body", None),
    ):
        answer = await service.post("/feedback/depth", data=data, files=files)
        assert (answer.json()["code"], answer.json().get("parameter")) == (code, parameter), answer.text
    answer = await service.post("/feedback/depth", content=json.dumps({"token": token}))
    assert answer.json()["code"] == "malformed-body"
