"""Point clouds: as a third program reads them, and where the points lie."""

import io

import numpy as np
import pytest
import trimesh

from service.errors import BadParameterError
from service.tasks import DEPTH, DepthOptions, DepthResult, encode_depth
from tests.cards import depth_card
from tests.pictures import picture


def cloud_of(
    width: int, height: int, depth_m: float = 10.0, **options: object
) -> tuple[DepthResult, trimesh.PointCloud]:
    card = depth_card()
    output = np.full((card.input.height, card.input.width), depth_m, np.float32)
    result = DEPTH.postprocess(output, DEPTH.preprocess(picture(width, height), card), card, DepthOptions(**options))
    loaded = trimesh.load(io.BytesIO(encode_depth(result, "ply").body), file_type="ply")
    assert isinstance(loaded, trimesh.PointCloud)
    return result, loaded


def test_it_has_a_point_with_its_colour_for_each_of_the_networks_pixels() -> None:
    result, cloud = cloud_of(662, 200, fx_px=500)
    assert cloud.vertices.shape == (result.depth_m.size, 3)
    np.testing.assert_array_equal(np.asarray(cloud.colors)[:, :3], result.pixels.reshape(-1, 3))


def test_points_lie_where_the_camera_saw_them() -> None:
    """A wall at 10 m, across the whole picture: its edges lie at half the picture's width / fx."""
    result, cloud = cloud_of(662, 200, fx_px=500)
    points = np.asarray(cloud.vertices).reshape(*result.depth_m.shape, 3)
    z = float(result.depth_m[0, 0])
    np.testing.assert_allclose(points[..., 2], z)
    half_pixel = z * 0.5 / result.geometry.scale_x / 500
    assert points[0, -1, 0] == pytest.approx(z * 331 / 500 - half_pixel, rel=1e-5), "x to the right"
    assert points[0, 0, 0] == pytest.approx(-points[0, -1, 0], rel=1e-5)
    assert points[-1, 0, 1] > 0 > points[0, 0, 1], "y down"
    assert points[-1, 0, 1] == pytest.approx(z * 100 / 500 - z * 0.5 / result.geometry.scale_y / 500, rel=1e-5)


def test_the_cut_does_not_move_the_axis() -> None:
    """Of a portrait picture the middle rows are seen: around the axis, and no higher than the region is."""
    result, cloud = cloud_of(600, 800, fx_px=600)
    points = np.asarray(cloud.vertices)
    z = float(result.depth_m[0, 0])
    assert np.abs(points.mean(axis=0)[:2]).max() < 0.01 * z
    assert np.abs(points[:, 1]).max() < z * result.geometry.height / 2 / 600


def test_the_header_is_what_strict_readers_take() -> None:
    result, _ = cloud_of(662, 200, fx_px=500)
    body = encode_depth(result, "ply").body
    header, _, data = body.partition(b"end_header\n")
    assert header.decode("ascii").splitlines() == [
        "ply",
        "format binary_little_endian 1.0",
        "comment metres; x right, y down, z forward, from the camera",
        "comment picture 662 x 200 pixels",
        "comment fx_px 500 query",
        "comment cx_px 331",
        "comment cy_px 100",
        f"element vertex {result.depth_m.size}",
        "property float x",
        "property float y",
        "property float z",
        "property uchar red",
        "property uchar green",
        "property uchar blue",
    ]
    assert len(data) == 15 * result.depth_m.size


def test_points_between_the_networks_are_not_made_up() -> None:
    with pytest.raises(BadParameterError, match="only interpolate"):
        cloud_of(662, 200, size="original")
