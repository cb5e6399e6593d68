"""The models that ship, served as `make serve` does: no settings at all but the port."""

import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import skimage.data
import trimesh
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


def phone_photo() -> bytes:
    """A photograph of 4000 x 3000 as a phone held upright stores it: sideways, with rotation and lens in EXIF."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769).update({0xA405: 26, 0xA002: 4000, 0xA003: 3000})
    return encode(Image.fromarray(PHOTOS["china"]()).resize((4000, 3000)), "JPEG", quality=85, exif=exif)


def test_a_phones_photograph(client):
    data = phone_photo()
    body = client.post("/depth", content=data).json()
    assert (body["image"]["width"], body["image"]["height"], body["image"]["exif_rotation"]) == (3000, 4000, 90)
    assert body["region"] == {"left": 0, "top": 1547, "width": 3000, "height": 906}
    assert body["cropped"] == {"left": 0, "top": 1547, "right": 0, "bottom": 1547}
    assert (body["input"]["width"], body["input"]["height"]) == (608, 160)
    assert body["focal"]["fx_source"] == "exif"
    assert body["focal"]["fx_px"] == pytest.approx(26 * 5000 / 43.2666, rel=1e-4)

    response = client.post("/depth?format=npy&size=original", content=data)
    depth_m = np.load(io.BytesIO(response.content))
    assert depth_m.shape == (4000, 3000)
    assert int(response.headers["content-length"]) == len(response.content)
    valid = ~np.isnan(depth_m)
    assert valid[1547:2453].all()
    assert valid.sum() == 906 * 3000
    assert float(np.nanmedian(depth_m)) == pytest.approx(body["median_m"], rel=0.02)

    response = client.post("/depth?format=png16&size=original", content=data)
    with Image.open(io.BytesIO(response.content)) as image:
        np.testing.assert_array_equal(np.asarray(image) > 0, valid)

    cloud = trimesh.load(io.BytesIO(client.post("/depth?format=ply", content=data).content), file_type="ply")
    assert len(cloud.vertices) == 608 * 160
    refused = client.post("/depth?values=true&size=original", content=data)
    assert (refused.status_code, refused.json()["parameter"]) == (422, "values")


@pytest.mark.parametrize("size", [(1, 1), (40, 900), (3000, 20)])
def test_depth_of_any_size_and_aspect(client, size):
    data = encode(Image.fromarray(PHOTOS["china"]()).resize(size), "PNG")
    with Image.open(io.BytesIO(client.post("/depth?format=color&size=original", content=data).content)) as image:
        assert image.size[0] >= size[0]
        assert image.size[1] > size[1]
    depth_m = np.load(io.BytesIO(client.post("/depth?format=npy&size=original", content=data).content))
    assert depth_m.shape == (size[1], size[0])
    assert np.isfinite(depth_m).any()


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
