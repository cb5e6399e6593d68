"""`/compare/classify` and `/compare/depth`."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.api.conftest import metric
from tests.pictures import encode, photo
from tests.tiny_zoo import DEPTH_SIZE

pytestmark = pytest.mark.anyio

PICTURE = encode(photo(), "JPEG")


async def test_the_default_is_binary_against_full(client, op):
    body = (await client.post("/compare/classify", content=PICTURE)).json()
    assert (body["a"]["model"], body["a"]["variant"], body["a"]["kernel"]) == ("tiny-bireal", "binary", op)
    assert (body["b"]["model"], body["b"]["variant"]) == ("tiny-colours", "full")
    best = [body[side]["predictions"][0]["wnid"] for side in ("a", "b")]
    assert body["agree"] is (best[0] == best[1])
    assert sorted(body["order"]) == ["a", "b"]
    assert body["a"]["request_id"] == body["b"]["request_id"] == body["request_id"]


async def test_both_sides_saw_the_same_decoded_image(client):
    body = (await client.post("/compare/classify?a=reference", content=PICTURE)).json()
    assert body["a"]["image"] == body["b"]["image"] == body["image"]
    assert body["a"]["timings_ms"]["decode"] == body["b"]["timings_ms"]["decode"]


async def test_binary_and_reference_agree(client, op):
    body = (await client.post("/compare/classify?a=binary&b=reference", content=PICTURE)).json()
    assert body["agree"] is True
    body = (await client.post("/compare/depth?a=binary&b=reference", content=PICTURE)).json()
    assert body["agree"] is True
    assert body["within_1_25"] == 1
    assert body["abs_rel"] < 1e-4


async def test_speed_and_weights_are_those_of_the_sides(client):
    body = (await client.post("/compare/classify?a=reference&b=full", content=PICTURE)).json()
    times = [body[side]["timings_ms"]["inference"] for side in ("a", "b")]
    assert body["speedup"] == pytest.approx(times[1] / times[0], rel=0.05)
    weights = body["weights"]
    described = {
        (model["name"], variant["variant"]): sum(variant["memory_bytes"].values())
        for model in (await client.get("/models")).json()["models"]
        for variant in model["variants"]
    }
    assert weights["a_bytes"] == described["tiny-bireal", "reference"]
    assert weights["b_bytes"] == described["tiny-colours", "full"]
    assert weights["ratio"] == pytest.approx(weights["b_bytes"] / weights["a_bytes"], abs=1e-3)


async def test_a_picture_that_cannot_be_read_counts_for_a(client):
    """Whichever side would have been the first to run."""
    of = {"task": "classify", "version": "1", "kernel": "onnxruntime", "outcome": "client_error"}
    a, b = of | {"model": "tiny-bireal", "variant": "reference"}, of | {"model": "tiny-colours", "variant": "full"}
    before = [metric(client, "bireal_requests_total", **labels) for labels in (a, b)]
    for _ in range(12):
        assert (await client.post("/compare/classify?a=reference&b=full", content=PICTURE[:99])).status_code == 422
    counted = [metric(client, "bireal_requests_total", **labels) for labels in (a, b)]
    assert counted == [before[0] + 12, before[1]]


async def test_depth_of_two_variants(client):
    body = (await client.post("/compare/depth?a=reference&b=full", content=PICTURE)).json()
    for side in ("a", "b"):
        assert (body[side]["height"], body[side]["width"]) == DEPTH_SIZE
    assert 0 <= body["within_1_25"] <= 1
    assert body["agree"] is (body["within_1_25"] >= 0.9)
    same = (await client.post("/compare/depth?a=full&b=full", content=PICTURE)).json()
    assert (same["agree"], same["within_1_25"], same["abs_rel"]) == (True, 1, 0)


async def test_the_order_is_drawn(client):
    orders = set()
    for _ in range(40):
        body = (await client.post("/compare/classify?a=full&b=full", content=PICTURE)).json()
        orders.add("".join(body["order"]))
    assert orders == {"ab", "ba"}  # missed by chance once in 2^39


async def test_comparisons_are_counted(client):
    labels = {
        "task": "classify",
        "model_a": "tiny-colours",
        "variant_a": "full",
        "model_b": "tiny-colours",
        "variant_b": "full",
        "agree": "true",
    }
    before = metric(client, "bireal_comparisons_total", **labels)
    await client.post("/compare/classify?a=full&b=full", content=PICTURE)
    assert metric(client, "bireal_comparisons_total", **labels) == before + 1


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("a=ternary", 404, "unknown-variant"),
        ("model=none", 404, "unknown-model"),
        ("model=tiny-colours", 422, "variant-not-served"),
        ("c=full", 422, "bad-parameter"),
        ("top_k=0", 422, "bad-parameter"),
    ],
)
async def test_refusals(client, query, status, code):
    response = await client.post(f"/compare/classify?{query}", content=PICTURE)
    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_one_image_only(client):
    files = [("file", (f"{i}.jpg", PICTURE, "image/jpeg")) for i in range(2)]
    response = await client.post("/compare/classify", files=files)
    assert (response.status_code, response.json()["code"]) == (413, "too-many-images")


async def test_an_image_that_cannot_be_read(client):
    response = await client.post("/compare/depth?a=full", content=PICTURE[:2000])
    assert (response.status_code, response.json()["code"]) == (422, "broken-image")


async def test_colours_agree_with_themselves(client):
    red = encode(Image.new("RGB", (40, 40), "red"), "PNG")
    body = (await client.post("/compare/classify?a=full&b=full&top_k=1", content=red)).json()
    assert [len(body[side]["predictions"]) for side in ("a", "b")] == [1, 1]
    assert body["agree"] is True


async def test_the_error_map_shows_where_depths_differ(client):
    query = "/compare/depth?a=reference&b=full"
    figures = (await client.post(query, content=PICTURE)).json()
    refused = await client.post(f"{query}&scale_bar=false", content=PICTURE)
    assert (refused.status_code, refused.json()["parameter"]) == (422, "scale_bar"), "figures have none"
    answer = await client.post(f"{query}&format=error_map&scale_bar=false", content=PICTURE)
    assert answer.headers["content-type"] == "image/png"
    assert f"within_1_25={figures['within_1_25']:.4f}" in answer.headers["x-bireal-agreement"]
    assert answer.headers["x-bireal-compared"] == "a=tiny-bireal-depth@1/reference, b=tiny-ramp@1/full"
    with Image.open(io.BytesIO(answer.content)) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (*DEPTH_SIZE, 3)
    maps = [
        np.load(io.BytesIO((await client.post(f"/depth?format=npy&variant={side}", content=PICTURE)).content))
        for side in ("reference", "full")
    ]
    redder = pixels[..., 0].astype(int) - pixels[..., 2]
    assert ((redder > 0) == (maps[0] > maps[1] * 1.01))[np.abs(np.log(maps[0] / maps[1])) > 0.02].all()
    same = await client.post("/compare/depth?a=full&b=full&format=error_map", content=PICTURE)
    with Image.open(io.BytesIO(same.content)) as image:
        pixels = np.asarray(image)
    height, width = DEPTH_SIZE
    assert set(pixels[:height, :width].ravel()) == {247}, "white: nothing differs"
    below = pixels[height:].reshape(-1, 3).tolist()
    assert [33, 102, 172] in below, "the scale bar has the colour of what is nearer"
    assert [178, 24, 43] in below
