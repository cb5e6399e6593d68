"""Real photographs over a real socket: answers, concurrency, metrics and logs."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import skimage.data
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from sklearn.datasets import load_sample_images

from tests.pictures import encode
from tests.tiny_zoo import DEPTH_SIZE

PHOTOS = {
    "astronaut": skimage.data.astronaut,
    "cat": skimage.data.chelsea,
    "coffee": skimage.data.coffee,
    "rocket": skimage.data.rocket,
    "grey": skimage.data.camera,
    "china": lambda: load_sample_images().images[0],
    "flower": lambda: load_sample_images().images[1],
}


def file_of(name: str, file_format: str = "JPEG") -> tuple[bytes, np.ndarray]:
    pixels = np.asarray(Image.fromarray(PHOTOS[name]()).convert("RGB"))
    return encode(Image.fromarray(pixels), file_format), pixels


@pytest.mark.parametrize("name", PHOTOS)
def test_a_photograph_is_classified(client, name):
    data, pixels = file_of(name, "PNG")
    body = client.post("/classify?variant=full", content=data, headers={"content-type": "image/png"}).json()
    height, width = pixels.shape[:2]
    side = min(height, width) * 32 / 36  # of the centre crop
    rows = slice(round((height - side) / 2), round((height + side) / 2))
    columns = slice(round((width - side) / 2), round((width + side) / 2))
    means = pixels[rows, columns].mean(axis=(0, 1))
    assert body["predictions"][0]["index"] == int(means.argmax())
    logits = 10 / 255 * means
    expected = np.exp(logits) / np.exp(logits).sum()
    assert body["predictions"][0]["probability"] == pytest.approx(expected.max(), abs=0.02)
    assert (body["image"]["width"], body["image"]["height"]) == (width, height)


@pytest.mark.parametrize("variant", ["binary", "reference", "full"])
@pytest.mark.parametrize("path", ["/classify", "/depth", "/depth?format=png16&", "/depth?format=npy&"])
def test_every_variant_answers(client, op, path, variant):
    data, _ = file_of("cat")
    response = client.post(f"{path}{'' if '?' in path else '?'}variant={variant}", content=data)
    assert response.status_code == 200, response.text
    assert response.headers["x-bireal-variant"] == variant
    assert response.headers["x-bireal-kernel"] == (op if variant == "binary" else "onnxruntime")


def test_curl_without_a_content_type(client):
    """`curl --data-binary @photo.jpg` declares a form."""
    data, _ = file_of("cat")
    response = client.post("/classify", content=data, headers={"content-type": "application/x-www-form-urlencoded"})
    assert response.status_code == 200


def test_a_depth_map_as_a_file(client):
    response = client.post("/depth", content=file_of("china")[0], headers={"accept": "image/png"})
    picture = Image.open(io.BytesIO(response.content))
    assert picture.size == DEPTH_SIZE[::-1]
    assert picture.mode.startswith("I")
    assert response.headers["content-disposition"] == 'inline; filename="depth.png"'


def test_a_comparison(client):
    body = client.post("/compare/classify?a=reference", content=file_of("rocket")[0]).json()
    assert (body["a"]["variant"], body["b"]["variant"]) == ("reference", "full")
    assert body["weights"]["a_bytes"] > 0


def test_many_at_once_each_get_their_own_answer(service):
    colours = ["red", "lime", "blue"]
    files = {colour: encode(Image.new("RGB", (320, 240), colour), "JPEG") for colour in colours}

    def ask(number: int) -> tuple[int, str, str]:
        colour = colours[number % 3]
        name = f"at-once-{number}"
        if number % 5:
            response = client.post("/classify?variant=full", content=files[colour], headers={"x-request-id": name})
            found = response.json()["predictions"][0]["name"]
        else:
            response = client.post("/depth?variant=full", content=files[colour], headers={"x-request-id": name})
            found = {"red": "red", "lime": "green", "blue": "blue"}[colour]
            assert response.json()["min_m"] == pytest.approx(2 * (0.5 + 0.5 / 3), abs=0.02)
        assert response.headers["x-request-id"] == name
        return response.status_code, found, {"lime": "green"}.get(colour, colour)

    with service.client() as client, ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(300)))
    assert {status for status, _, _ in answers} == {200}
    assert [found for _, found, _ in answers] == [colour for _, _, colour in answers]


def samples(text: str) -> dict[tuple[str, frozenset], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_what_was_done(client):
    data, _ = file_of("coffee")
    before = samples(client.get("/metrics").text)
    for _ in range(7):
        assert client.post("/classify?variant=full", content=data).status_code == 200
    client.post("/classify", content=b"text")
    after = samples(client.get("/metrics").text)

    def grown(name: str, **labels: str) -> float:
        key = name, frozenset(labels.items())
        return after[key] - before.get(key, 0)

    run = {"task": "classify", "model": "tiny-colours", "version": "1", "variant": "full", "kernel": "onnxruntime"}
    assert grown("bireal_requests_total", **run, outcome="ok") == 7
    for stage in ("decode", "preprocess", "queue", "inference", "postprocess", "total"):
        assert grown("bireal_stage_seconds_count", **run, stage=stage) == 7
        assert grown("bireal_stage_seconds_bucket", **run, stage=stage, le="+Inf") == 7
    assert grown("bireal_http_requests_total", method="POST", route="/classify", status="200") == 7
    assert grown("bireal_http_requests_total", method="POST", route="/classify", status="415") == 1
    assert grown("bireal_problems_total", code="unsupported-image") == 1
    assert grown("bireal_batch_size_count", **run) == 7
    assert after["bireal_in_flight", frozenset()] == 1  # the scrape itself
    assert after["bireal_queue_depth", frozenset()] == 0


def test_logs_are_json_with_request_ids_and_without_images(service, client):
    data, _ = file_of("cat")
    client.post("/classify?variant=full", content=data + b"hidden-marker", headers={"x-request-id": "logged-1"})
    (record,) = service.logged("logged-1")
    assert (record["logger"], record["route"], record["status"]) == ("service.access", "/classify", 200)
    assert (record["model"], record["variant"]) == ("tiny-colours", "full")
    assert record["seconds"] > 0
    assert record["time"].endswith("Z")
    assert "hidden-marker" not in service.log.read_text()
