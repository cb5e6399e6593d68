"""`/classify`, bodies of both tasks, and what every answer says; maps and clouds are in test_depth.py."""

import re

import pytest
from PIL import Image

from service.metrics import STAGES
from service.request_id import request_id_from
from tests.api.conftest import metric, running
from tests.pictures import ENCODINGS, encode, photo
from tests.tiny_zoo import FAR_M

pytestmark = pytest.mark.anyio

WHITE = (255, 255, 255)


def solid(colour, size=(60, 40), file_format="PNG") -> bytes:
    return encode(Image.new("RGB", size, colour), file_format)


# ---- classify --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", ["red", "lime", "blue"])
async def test_the_answer_is_right(client, colour):
    response = await client.post("/classify?variant=full", content=solid(colour), headers={"content-type": "image/png"})
    assert response.status_code == 200
    body = response.json()
    best = body["predictions"][0]
    assert best["name"] == {"lime": "green"}.get(colour, colour)
    assert best["wnid"] == f"n0000000{best['index'] + 1}"
    assert best["probability"] > 0.99
    assert sum(item["probability"] for item in body["predictions"]) == pytest.approx(1)
    assert (body["model"], body["version"], body["variant"]) == ("tiny-colours", "1", "full")
    assert body["uncertain"] is False


@pytest.mark.parametrize("file_format", ENCODINGS)
async def test_every_format_is_read(client, file_format):
    data = encode(photo(), file_format, **ENCODINGS[file_format])
    body = (await client.post("/classify", content=data)).json()
    assert (body["image"]["format"], body["image"]["width"], body["image"]["height"]) == (file_format, 451, 300)


async def test_binary_is_the_default_and_says_on_what_it_ran(client, op):
    response = await client.post("/classify", content=solid("red"))
    body = response.json()
    assert (body["model"], body["variant"], body["kernel"], body["fallback"]) == ("tiny-bireal", "binary", op, None)
    assert response.headers["x-bireal-variant"] == "binary"
    assert response.headers["x-bireal-kernel"] == op


async def test_binary_and_reference_agree(client, op):
    answers = {}
    for variant in ("binary", "reference"):
        body = (await client.post(f"/classify?variant={variant}", content=encode(photo(), "PNG"))).json()
        answers[variant] = {item["wnid"]: item["probability"] for item in body["predictions"]}
    assert answers["binary"] == pytest.approx(answers["reference"], abs=1e-4)


async def test_full_of_a_binary_model_is_its_twin(client):
    body = (await client.post("/classify?model=tiny-bireal&variant=full", content=solid("red"))).json()
    assert (body["model"], body["variant"]) == ("tiny-colours", "full")


@pytest.mark.parametrize(("query", "count"), [("", 3), ("&top_k=1", 1), ("&top_k=2", 2), ("&top_k=1000", 3)])
async def test_top_k(client, query, count):
    body = (await client.post(f"/classify?variant=full{query}", content=solid("red"))).json()
    assert len(body["predictions"]) == count
    probabilities = [item["probability"] for item in body["predictions"]]
    assert probabilities == sorted(probabilities, reverse=True)


@pytest.mark.parametrize(("least", "uncertain"), [(0, False), (0.3, False), (0.5, True), (1, True)])
async def test_an_answer_below_min_probability_is_uncertain(client, least, uncertain):
    grey = solid((90, 90, 90))  # all three colours alike: 1/3 each
    body = (await client.post(f"/classify?variant=full&min_probability={least}", content=grey)).json()
    assert (body["uncertain"], body["min_probability"]) == (uncertain, least)


async def test_defaults_come_from_the_settings(anyio_backend, zoo):
    async with running(zoo, top_k=2, min_probability=0.9, default_variant="full") as client:
        body = (await client.post("/classify", content=solid((90, 90, 90)))).json()
    assert (len(body["predictions"]), body["uncertain"], body["variant"]) == (2, True, "full")


# ---- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type", ["image/png", "image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded", None]
)
async def test_the_declared_type_does_not_have_to_be_the_right_one(client, content_type):
    headers = {"content-type": content_type} if content_type else {}
    response = await client.post("/classify?variant=full", content=solid("blue"), headers=headers)
    assert response.status_code == 200
    assert response.json()["predictions"][0]["name"] == "blue"


@pytest.mark.parametrize("path", ["/classify", "/depth", "/compare/classify"])
async def test_what_curl_d_sends_is_answered_with_how_to_send_it(client, path):
    """Its content type says that it was curl, or what is left of a PNG does; nobody else is told of it."""
    curls = {"content-type": "application/x-www-form-urlencoded"}
    stripped = solid("blue").translate(None, b"\r\n\0")
    for data, headers in ((stripped, curls), (stripped, {}), (b"coffee.png", curls), (b"BM" + bytes(4), curls)):
        response = await client.post(path, content=data, headers=headers)
        assert response.status_code == 415
        assert response.json()["code"] == "unsupported-image"
        assert "--data-binary @FILE, not -d" in response.json()["help"]
    response = await client.post(path, content=b"coffee.png")
    assert (response.status_code, "curl" in response.json()["help"]) == (415, False)


async def test_one_file_in_a_form_is_answered_alone(client):
    response = await client.post("/classify?variant=full", files={"file": ("a.png", solid("blue"), "image/png")})
    assert response.json()["predictions"][0]["name"] == "blue"


async def test_several_files_are_answered_in_their_order(client):
    colours = ["red", "lime", "blue", "blue", "red", "lime", "red"]
    files = [("file", (f"{i}.png", solid(colour), "image/png")) for i, colour in enumerate(colours)]
    body = (await client.post("/classify?variant=full&top_k=1", files=files)).json()
    assert body["count"] == len(colours)
    names = [item["predictions"][0]["name"] for item in body["results"]]
    assert names == [{"lime": "green"}.get(colour, colour) for colour in colours]
    assert {item["request_id"] for item in body["results"]} == {body["request_id"]}


async def test_a_problem_stands_in_the_place_of_an_image_that_cannot_be_read(client):
    before = metric(client, "bireal_problems_total", code="unsupported-image")
    files = [("file", (f"{i}", data, "image/png")) for i, data in enumerate([solid("red"), b"text", solid("blue")])]
    response = await client.post("/classify?variant=full", files=files)
    assert response.status_code == 200
    first, second, third = response.json()["results"]
    assert (first["predictions"][0]["name"], third["predictions"][0]["name"]) == ("red", "blue")
    assert (second["status"], second["code"]) == (415, "unsupported-image")
    assert metric(client, "bireal_problems_total", code="unsupported-image") == before + 1


@pytest.mark.parametrize("cut", [30, 80])  # where the last boundary is, and within the second picture
async def test_a_form_that_breaks_off_is_not_answered_without_its_last_picture(client, cut):
    files = [("file", (f"{name}.png", solid("red"), "image/png")) for name in "ab"]
    form = client.build_request("POST", "/classify?variant=full", files=files)
    whole, kind = form.read(), {"content-type": form.headers["content-type"]}
    assert (await client.post(form.url, content=whole, headers=kind)).json()["count"] == 2
    response = await client.post(form.url, content=whole[:-cut], headers=kind)
    assert (response.status_code, response.json()["code"]) == (400, "malformed-body")
    assert "ends before its last boundary" in response.json()["detail"]


async def test_several_scenes_are_answered_as_figures(client):
    files = [("file", (f"{i}.png", solid(WHITE), "image/png")) for i in range(3)]
    body = (await client.post("/depth?variant=full", files=files)).json()
    assert [item["max_m"] for item in body["results"]] == pytest.approx([FAR_M] * 3)


# ---- what every answer says ------------------------------------------------------------------------------------------


async def test_timings_add_up_and_are_in_the_header_too(client):
    response = await client.post("/depth", content=encode(photo(), "JPEG"))
    timings = response.json()["timings_ms"]
    assert set(timings) == set(STAGES)
    assert all(value >= 0 for value in timings.values())
    assert sum(timings[stage] for stage in STAGES if stage != "total") <= timings["total"] + 0.01
    header = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert list(header) == list(STAGES)
    assert float(header["inference"]) == pytest.approx(timings["inference"], abs=0.002)
    assert float(header["total"]) >= timings["total"]


async def test_stages_are_in_the_histograms(client):
    labels = {"task": "classify", "model": "tiny-colours", "version": "1", "variant": "full", "kernel": "onnxruntime"}

    def count(stage: str) -> float:
        return metric(client, "bireal_stage_seconds_count", **labels, stage=stage)

    before = {stage: count(stage) for stage in STAGES}
    ok = metric(client, "bireal_requests_total", **labels, outcome="ok")
    macs = metric(client, "bireal_work_real_macs_total", **labels)
    await client.post("/classify?variant=full", content=solid("red"))
    assert {stage: count(stage) - before[stage] for stage in STAGES} == dict.fromkeys(STAGES, 1)
    assert metric(client, "bireal_requests_total", **labels, outcome="ok") == ok + 1
    assert metric(client, "bireal_work_real_macs_total", **labels) == macs + 1000


@pytest.mark.parametrize("given", ["abc", "A-1_b.c:9", "x" * 64])
async def test_a_good_request_id_is_echoed(client, given):
    response = await client.post("/classify", content=solid("red"), headers={"x-request-id": given})
    assert response.headers["x-request-id"] == response.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a,b", 'a"b', "-a", "a;b", "ä"])
def test_a_bad_request_id_is_replaced(given):
    assert re.fullmatch(r"[0-9a-f]{32}", request_id_from(given))


async def test_what_was_done_to_the_image_is_reported(client):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(photo().convert("CMYK"), "JPEG", exif=exif)
    image = (await client.post("/classify", content=data)).json()["image"]
    assert (image["width"], image["height"]) == (300, 451)
    assert (image["exif_orientation"], image["exif_rotation"], image["mode"]) == (6, 90, "CMYK")
    assert "CMYK" in image["converted"]


# ---- without the op --------------------------------------------------------------------------------------------------


async def test_the_fallback_is_said_in_the_answer_and_counted(anyio_backend, zoo):
    from service.registry import Registry
    from service.settings import load_settings
    from tests.test_registry import without_op

    registry = Registry(load_settings({"model_dir": zoo, "fallback": "reference"}), find_backend=without_op)
    async with running(zoo, registry) as client:
        response = await client.post("/classify?variant=binary", content=solid("red"))
        body = response.json()
        assert (body["variant"], body["kernel"]) == ("reference", "onnxruntime")
        assert "cannot run here" in body["fallback"]
        assert response.headers["x-bireal-fallback"] == body["fallback"]
        counted = metric(
            client,
            "bireal_fallback_total",
            task="classify",
            model="tiny-bireal",
            version="1",
            requested="binary",
            ran="reference",
        )
        assert counted == 1
        ready = (await client.get("/readyz")).json()
        assert ready["ready"] is True
        assert ready["models"]["tiny-bireal@1/binary"] is False
