"""The models that ship, served as `make serve` does: no settings at all but the port."""

import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import skimage.data
from PIL import Image
from sklearn.datasets import load_sample_images

from service.settings import SHIPPED_MODELS
from tests.live.service_process import LiveService, running
from tests.pictures import encode

PHOTOS = {
    "cat": skimage.data.chelsea,
    "coffee": skimage.data.coffee,
    "rocket": skimage.data.rocket,
    "china": lambda: load_sample_images().images[0],
    "flower": lambda: load_sample_images().images[1],
}

if not any(SHIPPED_MODELS.glob("*/*/card.yaml")):
    pytest.skip(f"there are no models in {SHIPPED_MODELS.name}/", allow_module_level=True)


@pytest.fixture(scope="module")
def shipped(op, tmp_path_factory) -> Iterator[LiveService]:
    with running(SHIPPED_MODELS, tmp_path_factory.mktemp("shipped") / "log") as service:
        yield service
        assert service.stop() == 0


@pytest.fixture
def client(shipped) -> Iterator[httpx.Client]:
    with shipped.client() as ready:
        yield ready


def photo(name: str) -> bytes:
    return encode(Image.fromarray(PHOTOS[name]()), "JPEG", quality=90)


def test_every_variant_is_ready(client):
    body = client.get("/models").json()
    assert body["broken"] == []
    assert all(variant["ready"] for model in body["models"] for variant in model["variants"])
    assert {model["task"] for model in body["models"] if model["default"]} == {"classify", "depth"}
    for model in body["models"]:
        assert model["metrics"], f"{model['name']} states no accuracy"


@pytest.mark.parametrize("name", PHOTOS)
def test_binary_and_reference_name_the_same(client, name):
    body = client.post("/compare/classify?a=binary&b=reference", content=photo(name)).json()
    assert body["agree"] is True
    a, b = ([item["probability"] for item in body[side]["predictions"]] for side in ("a", "b"))
    np.testing.assert_allclose(a, b, atol=0.02)


@pytest.mark.parametrize("name", ["china", "rocket"])
def test_binary_and_reference_measure_the_same(client, name):
    body = client.post("/compare/depth?a=binary&b=reference", content=photo(name)).json()
    assert body["agree"] is True
    assert body["within_1_25"] > 0.99


@pytest.mark.parametrize("variant", ["binary", "full"])
def test_depth_lies_in_the_cards_range(client, variant):
    response = client.post(f"/depth?variant={variant}&format=npy", content=photo("china"))
    depth_m = np.load(io.BytesIO(response.content))
    assert np.isfinite(depth_m).all()
    assert 0 < depth_m.min() < depth_m.max() < 1000


def test_the_binary_model_weighs_less(client):
    for task, picture in (("classify", "cat"), ("depth", "china")):
        weights = client.post(f"/compare/{task}", content=photo(picture)).json()["weights"]
        assert weights["ratio"] > 4
        assert weights["b_artefact_bytes"] > 4 * weights["a_artefact_bytes"]


def test_the_binary_session_takes_less_memory(client):
    sessions = {
        (model["task"], variant["variant"]): variant["session_bytes"]
        for model in client.get("/models").json()["models"]
        for variant in model["variants"]
    }
    for task in ("classify", "depth"):
        assert sessions[task, "binary"] < 0.6 * sessions[task, "full"]
