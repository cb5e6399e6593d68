"""`/depth`: maps in figures, as files and as point clouds, in metres of whichever camera took the picture."""

import io
import re

import numpy as np
import pytest
import trimesh
from PIL import Image

from service.schemas import DepthAnswer
from tests.api.test_predict import WHITE, solid
from tests.pictures import encode
from tests.tiny_zoo import DEPTH_SIZE, FAR_M, NEAR_M

pytestmark = pytest.mark.anyio


async def test_depth_in_figures(client):
    body = (await client.post("/depth?variant=full", content=solid(WHITE, (331, 100)))).json()
    height, width = DEPTH_SIZE
    assert (body["width"], body["height"], body["unit"]) == (width, height, "m")
    assert (body["min_m"], body["max_m"]) == pytest.approx((NEAR_M, FAR_M))
    assert body["median_m"] == pytest.approx((NEAR_M + FAR_M) / 2)
    assert len(body["rows"]["values_m"]) == height
    assert body["focal"]["assumed"] is True
    assert body["model"] == "tiny-ramp"


async def depth_map(client, query: str, accept: str | None = None, size=(331, 100)):
    headers = {"accept": accept} if accept else {}
    response = await client.post(f"/depth?variant=full{query}", content=solid(WHITE, size), headers=headers)
    assert response.status_code == 200, response.text
    return response


async def test_depth_as_npy(client):
    response = await depth_map(client, "&format=npy")
    depth_m = np.load(io.BytesIO(response.content))
    assert depth_m.shape == DEPTH_SIZE
    assert depth_m.dtype == np.float32
    np.testing.assert_allclose(depth_m[0], np.linspace(NEAR_M, FAR_M, DEPTH_SIZE[1]), rtol=1e-6)
    assert response.headers["x-bireal-depth-m"] == "min=2.000, median=26.000, max=50.000"


async def test_depth_as_kitti_writes_it(client):
    response = await depth_map(client, "&format=png16")
    assert response.headers["content-type"] == "image/png"
    values = np.asarray(Image.open(io.BytesIO(response.content)))
    assert values.dtype == np.uint16
    assert (values[0, 0], values[0, -1]) == (NEAR_M * 256, FAR_M * 256)


async def test_depth_as_a_picture(client):
    response = await depth_map(client, "&format=color&scale_bar=false")
    picture = np.asarray(Image.open(io.BytesIO(response.content)).convert("L")).astype(int)
    assert picture.shape == DEPTH_SIZE
    assert picture[:, 0].mean() > picture[:, -1].mean() + 50  # bright is near
    assert re.fullmatch(r"near=\d+\.\d{3}, far=\d+\.\d{3}", response.headers["x-bireal-color-range-m"])
    barred = np.asarray(Image.open(io.BytesIO((await depth_map(client, "&format=color")).content)))
    assert barred.shape[0] > DEPTH_SIZE[0] + 30
    refused = await client.post("/depth?variant=full&scale_bar=false", content=solid(WHITE, (331, 100)))
    assert (refused.status_code, refused.json()["parameter"]) == (422, "scale_bar"), "figures have none"


async def test_colours_on_a_range_of_the_clients_own(client):
    response = await depth_map(client, "&format=color&near=5&far=20")
    assert response.headers["x-bireal-color-range-m"] == "near=5.000, far=20.000"
    refused = await client.post("/depth?variant=full&format=color&near=20&far=5", content=solid(WHITE, (331, 100)))
    assert (refused.status_code, refused.json()["parameter"]) == (422, "near")
    refused = await client.post("/depth?variant=full&format=png16&far=20", content=solid(WHITE, (331, 100)))
    assert (refused.status_code, refused.json()["parameter"]) == (422, "far"), "it has no colours"


async def test_depth_as_a_point_cloud(client):
    response = await depth_map(client, "", "application/x-ply")
    assert response.headers["content-type"] == "application/x-ply"
    assert response.headers["content-disposition"] == 'inline; filename="depth.ply"'
    cloud = trimesh.load(io.BytesIO(response.content), file_type="ply")
    depth_m = np.load(io.BytesIO((await depth_map(client, "&format=npy")).content))
    np.testing.assert_allclose(np.asarray(cloud.vertices)[:, 2], depth_m.ravel())
    assert (np.asarray(cloud.colors) == 255).all(), "the picture is white"


async def test_files_say_what_they_show(client):
    headers = (await depth_map(client, "&format=npy&size=original&fx=200", size=(400, 100))).headers
    assert headers["x-bireal-picture"] == "width=400, height=100"
    assert headers["x-bireal-region"] == headers["x-bireal-valid"] == "left=33, top=0, width=333, height=100"
    assert headers["x-bireal-map"] == "width=400, height=100"
    assert headers["x-bireal-focal"] == "fx_px=200.000, fx_source=query"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("application/json", "application/json"),
        ("image/png", "image/png"),
        ("image/*", "image/png"),
        ("application/x-npy", "application/x-npy"),
        ("application/x-ply", "application/x-ply"),
        ("*/*", "application/json"),
        ("text/html, image/png;q=0.9, application/json;q=0.8", "image/png"),
    ],
)
async def test_accept_decides_where_format_does_not(client, accept, content_type):
    assert (await depth_map(client, "", accept)).headers["content-type"] == content_type
    assert (await depth_map(client, "&format=npy", accept)).headers["content-type"] == "application/x-npy"


async def test_a_map_of_the_pictures_own_size(client):
    response = await depth_map(client, "&format=npy&size=original", size=(400, 100))
    depth_m = np.load(io.BytesIO(response.content))
    assert depth_m.shape == (100, 400)
    assert np.isnan(depth_m[:, :33]).all()
    assert np.isnan(depth_m[:, 366:]).all()
    assert (depth_m[:, 33:366] > 0).all()
    body = (await depth_map(client, "&size=original", size=(400, 100))).json()
    assert (body["width"], body["height"]) == (400, 100)
    assert body["region"] == body["valid"] == {"left": 33, "top": 0, "width": 333, "height": 100}
    assert body["cropped"] == {"left": 33, "top": 0, "right": 34, "bottom": 0}


async def test_a_large_map_is_sent_while_it_is_made(client):
    response = await depth_map(client, "&format=npy&size=original", size=(1200, 900))
    depth_m = np.load(io.BytesIO(response.content))
    assert len(response.content) == int(response.headers["content-length"]) > 4 * 1200 * 900
    assert depth_m.shape == (900, 1200)
    valid = ~np.isnan(depth_m)
    assert valid.any(axis=1).sum() == 360  # 24/80 of the width
    np.testing.assert_allclose(depth_m[450, [0, -1]], [NEAR_M, FAR_M], rtol=0.02)


async def test_what_the_network_saw_is_said(client):
    body = (await depth_map(client, "", size=(160, 480))).json()
    assert (body["width"], body["height"]) == (DEPTH_SIZE[1], DEPTH_SIZE[0])
    assert body["valid"] == {"left": 0, "top": 0, "width": 80, "height": 24}
    assert body["region"] == {"left": 0, "top": 216, "width": 160, "height": 48}
    assert body["cropped"] == {"left": 0, "top": 216, "right": 0, "bottom": 216}
    assert body["input"] == {"width": 80, "height": 24, "scale_x": 0.5, "scale_y": 0.5}
    assert body["depth_m"] is None


async def test_json_has_the_map_where_it_is_asked_for(client):
    body = (await depth_map(client, "&values=true&size=original", size=(400, 100))).json()
    rows = np.array(body["depth_m"], dtype=float)
    npy = np.load(io.BytesIO((await depth_map(client, "&format=npy&size=original", size=(400, 100))).content))
    np.testing.assert_allclose(rows, npy, atol=6e-4)
    assert DepthAnswer.model_validate(body).depth_m == body["depth_m"], "as the interface declares it"


async def test_metres_of_the_clients_own_camera(client):
    body = (await depth_map(client, "&fx=100", size=(160, 48))).json()  # the network sees it at half: 50 px, as trained
    assert body["max_m"] == pytest.approx(FAR_M)
    body = (await depth_map(client, "&fx=200", size=(160, 48))).json()
    assert body["max_m"] == pytest.approx(2 * FAR_M)
    assert body["focal"] == {"fx_px": 200, "assumed": False, "fx_source": "query", "reason": "The request's fx."}


async def test_metres_of_the_camera_in_the_picture(client):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 27
    data = encode(Image.new("RGB", (300, 400), WHITE), "JPEG", exif=exif)
    body = (await client.post("/depth?variant=full", content=data)).json()
    assert (body["focal"]["fx_source"], body["focal"]["assumed"]) == ("exif", False)
    assert body["focal"]["fx_px"] == pytest.approx(27 * 500 / 43.2666, rel=1e-5)
    assert body["image"]["exif_focal_35mm"] == 27
    assert body["max_m"] == pytest.approx(FAR_M * body["focal"]["fx_px"] * body["input"]["scale_x"] / 50, rel=1e-4)


@pytest.mark.parametrize(
    ("query", "parameter", "words"),
    [
        ("fx=26", "fx", "not millimetres"),
        ("fx=0", "fx", "it must be a focal length"),
        ("fx=nan", "fx", "it must be a focal length"),
        ("format=ply&size=original", "size", "only interpolate"),
        ("format=npy&values=true", "values", "format=json"),
        ("values=true&size=original", "values", "npy"),
        ("format=color&near=0", "near", "greater than 0"),
    ],
)
async def test_what_cannot_be_asked_of_a_picture(client, query, parameter, words):
    answer = await client.post(f"/depth?variant=full&{query}", content=solid(WHITE, (1200, 900)))
    body = answer.json()
    assert (answer.status_code, body["code"], body["parameter"]) == (422, "bad-parameter", parameter)
    assert words in body["detail"] + body["help"]


async def test_a_focal_length_that_fits_only_some_of_the_pictures(client):
    files = [("file", ("a.png", solid(WHITE, (160, 48)))), ("file", ("b.png", solid(WHITE, (1600, 480))))]
    fits, does_not = (await client.post("/depth?variant=full&fx=100", files=files)).json()["results"]
    assert fits["focal"]["fx_px"] == 100
    assert (does_not["status"], does_not["parameter"]) == (422, "fx")
