"""Depth maps as files: KITTI's 16-bit PNG, .npy, and colours."""

import io
import math

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from service.errors import BadParameterError
from service.tasks import encode_depth
from service.tasks.depth_formats import colorize


def depths() -> npt.NDArray[np.float32]:
    return np.linspace(1.5, 80, 30 * 40, dtype=np.float32).reshape(30, 40)


def test_png16_is_kittis_convention() -> None:
    encoded = encode_depth(depths(), "png16")
    assert (encoded.media_type, encoded.suffix, encoded.near_m) == ("image/png", ".png", None)
    with Image.open(io.BytesIO(encoded.body)) as image:
        assert image.mode == "I;16"
        values = np.asarray(image)
    np.testing.assert_allclose(values / 256.0, depths(), atol=0.5 / 256 + 1e-5)


def test_png16_stays_in_range() -> None:
    extremes = np.array([[1e-6, 255.99, 300.0, 1e9]], dtype=np.float32)
    with Image.open(io.BytesIO(encode_depth(extremes, "png16").body)) as image:
        values = np.asarray(image)
    assert values.tolist() == [[1, 65533, 65535, 65535]], "never 0, which says that there is no depth"


def test_npy_is_exact() -> None:
    encoded = encode_depth(depths(), "npy")
    loaded = np.load(io.BytesIO(encoded.body), allow_pickle=False)
    np.testing.assert_array_equal(loaded, depths())
    assert loaded.dtype == np.dtype("<f4")
    assert encoded.suffix == ".npy"


def luminance(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    return rgb.astype(float) @ np.array([0.2126, 0.7152, 0.0722])


def test_colours_are_bright_near_and_dark_far() -> None:
    encoded = encode_depth(depths(), "color")
    with Image.open(io.BytesIO(encoded.body)) as image:
        assert (image.mode, image.size) == ("RGB", (40, 30))
        pixels = np.asarray(image)
    assert pixels[0, 0].tolist() == [253, 231, 37]
    assert pixels[-1, -1].tolist() == [68, 1, 84]
    assert encoded.near_m == pytest.approx(np.percentile(depths(), 2))
    assert encoded.far_m == pytest.approx(np.percentile(depths(), 98))
    assert (np.diff(luminance(pixels).ravel()) <= 0).all(), "never brighter as it gets farther"


def test_colours_are_spread_evenly_over_disparity() -> None:
    depth_m = (1 / np.linspace(1 / 80, 1 / 2, 256)).astype(np.float32)[None]
    pixels = colorize(depth_m, 2.0, 80.0)[0]
    steps = np.diff(luminance(pixels))
    assert (steps > -0.5).all()
    assert steps.max() < 2.5, "no visible edge where the depth has none"
    assert pixels[128].tolist() == pytest.approx([33, 145, 140], abs=3), "the middle of viridis"


def test_colour_range_can_be_given() -> None:
    encoded = encode_depth(depths(), "color", near_m=5, far_m=20)
    assert (encoded.near_m, encoded.far_m) == (5, 20)
    with Image.open(io.BytesIO(encoded.body)) as image:
        pixels = np.asarray(image)
    assert (pixels[depths() <= 5] == (253, 231, 37)).all()
    assert (pixels[depths() >= 20] == (68, 1, 84)).all()


@pytest.mark.parametrize(
    ("near", "far", "parameter"),
    [
        (20.0, 5.0, "near"),
        (5.0, 5.0, "near"),
        (0.0, 5.0, "near"),
        (5.0, math.inf, "far"),
        (None, 1e-3, "far"),
        (math.nan, None, "near"),
    ],
)
def test_colour_ranges_that_are_none(near: float | None, far: float | None, parameter: str) -> None:
    with pytest.raises(BadParameterError) as caught:
        encode_depth(depths(), "color", near_m=near, far_m=far)
    assert caught.value.parameter == parameter


def test_a_map_of_one_depth_has_a_colour() -> None:
    encoded = encode_depth(np.full((4, 4), 10, np.float32), "color")
    assert encoded.near_m is not None
    assert encoded.far_m is not None
    assert encoded.near_m < encoded.far_m


def test_formats_that_do_not_exist() -> None:
    with pytest.raises(BadParameterError, match="exr") as caught:
        encode_depth(depths(), "exr")  # type: ignore[arg-type]
    assert "json, png16, npy, color" in caught.value.remedy
