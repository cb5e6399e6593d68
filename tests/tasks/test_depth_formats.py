"""Depth maps as files: KITTI's 16-bit PNG, .npy, colours with a scale bar, JSON; test_point_cloud has the rest."""

import io
import json
import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from service.errors import BadParameterError
from service.tasks import ColorOptions, DepthResult, Geometry, encode_depth
from service.tasks.depth import BAND_VALUES, place_in_picture, summarise
from service.tasks.depth_colors import colorize
from service.tasks.depth_formats import json_values
from service.tasks.focal import Focal
from service.tasks.scale_bar import depth_ticks

PLAIN = ColorOptions(scale_bar=False)


def depths() -> npt.NDArray[np.float32]:
    return np.linspace(1.5, 80, 30 * 40, dtype=np.float32).reshape(30, 40)


def answer(
    depth_m: npt.NDArray[np.float32],
    picture: tuple[int, int] | None = None,
    region: tuple[int, int, int, int] | None = None,
) -> DepthResult:
    """A map; of a region (left, top, width, height) of a picture (width, height) where these are given."""
    height, width = depth_m.shape
    geometry = Geometry(*(picture or (width, height)), *(region or (0, 0, width, height)), width, height)
    focal = Focal(50.0, "assumed", "for the test")
    pixels = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    size = "network" if picture is None else "original"
    return DepthResult(depth_m, pixels, summarise(depth_m), geometry, focal, size)


def in_picture() -> DepthResult:
    """The map of a region of 80 x 60 pixels in a picture of 100 x 90."""
    return answer(depths(), (100, 90), (10, 20, 80, 60))


def opened(body: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(body)) as image:
        return np.asarray(image)


def test_png16_is_kittis_convention() -> None:
    encoded = encode_depth(answer(depths()), "png16")
    assert (encoded.media_type, encoded.suffix, encoded.near_m) == ("image/png", ".png", None)
    with Image.open(io.BytesIO(encoded.body)) as image:
        assert image.mode == "I;16"
        values = np.asarray(image)
    np.testing.assert_allclose(values / 256.0, depths(), atol=0.5 / 256 + 1e-5)


def test_png16_stays_in_range() -> None:
    extremes = np.array([[1e-6, 255.99, 300.0, 1e9]], dtype=np.float32)
    with Image.open(io.BytesIO(encode_depth(answer(extremes), "png16").body)) as image:
        values = np.asarray(image)
    assert values.tolist() == [[1, 65533, 65535, 65535]], "never 0, which says that there is no depth"


def test_npy_is_exact() -> None:
    encoded = encode_depth(answer(depths()), "npy")
    loaded = np.load(io.BytesIO(encoded.body), allow_pickle=False)
    np.testing.assert_array_equal(loaded, depths())
    assert loaded.dtype == np.dtype("<f4")
    assert encoded.suffix == ".npy"


def luminance(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    return rgb.astype(float) @ np.array([0.2126, 0.7152, 0.0722])


def test_colours_are_bright_near_and_dark_far() -> None:
    encoded = encode_depth(answer(depths()), "color", PLAIN)
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
    encoded = encode_depth(answer(depths()), "color", ColorOptions(5, 20, scale_bar=False))
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
        encode_depth(answer(depths()), "color", ColorOptions(near, far))
    assert caught.value.parameter == parameter


def test_a_map_of_one_depth_has_a_colour() -> None:
    encoded = encode_depth(answer(np.full((4, 4), 10, np.float32)), "color")
    assert encoded.near_m is not None
    assert encoded.far_m is not None
    assert encoded.near_m < encoded.far_m


def test_formats_that_do_not_exist() -> None:
    with pytest.raises(BadParameterError, match="exr") as caught:
        encode_depth(answer(depths()), "exr")  # type: ignore[arg-type]
    assert "json, png16, npy, color, ply" in caught.value.remedy


# ---- at the size of the uploaded picture -----------------------------------------------------------------------------


def outside() -> npt.NDArray[np.bool_]:
    mask = np.ones((90, 100), bool)
    mask[20:80, 10:90] = False
    return mask


def test_npy_of_the_picture_has_nan_where_there_is_no_depth() -> None:
    encoded = encode_depth(in_picture(), "npy")
    body = encoded.body
    assert len(body) == encoded.length
    loaded = np.load(io.BytesIO(body), allow_pickle=False)
    assert loaded.shape == (90, 100)
    np.testing.assert_array_equal(np.isnan(loaded), outside())
    expected = np.asarray(Image.fromarray(depths()).resize((80, 60), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(loaded[20:80, 10:90], expected, rtol=1e-5)


def test_png16_of_the_picture_has_0_where_there_is_no_depth() -> None:
    values = opened(encode_depth(in_picture(), "png16").body)
    assert values.dtype == np.uint16
    np.testing.assert_array_equal(values == 0, outside())


def test_colours_of_the_picture_are_transparent_where_there_is_no_depth() -> None:
    pixels = opened(encode_depth(in_picture(), "color", PLAIN).body)
    assert pixels.shape == (90, 100, 4)
    np.testing.assert_array_equal(pixels[..., 3] == 0, outside())
    assert set(np.unique(pixels[..., 3])) == {0, 255}


def test_json_of_the_picture_has_null_where_there_is_no_depth() -> None:
    rows = json.loads(json_values(in_picture()))
    loaded = np.array(rows, dtype=float)  # None becomes NaN
    np.testing.assert_array_equal(np.isnan(loaded), outside())
    assert rows[0][0] is None
    npy = np.load(io.BytesIO(encode_depth(in_picture(), "npy").body))
    np.testing.assert_allclose(loaded, npy, atol=6e-4)


def test_json_of_the_network_has_every_value_to_the_millimetre() -> None:
    np.testing.assert_allclose(np.array(json.loads(json_values(answer(depths())))), depths(), atol=6e-4)


def test_json_ends_where_it_would_take_too_much_memory() -> None:
    with pytest.raises(BadParameterError, match="4000 x 3000") as caught:
        json_values(answer(depths(), (4000, 3000), (0, 896, 4000, 1208)))
    assert "npy" in caught.value.remedy


# ---- pictures of extreme shapes --------------------------------------------------------------------------------------

STRIPS = [(1, 600_000), (600_000, 1), (7, 90_000), (90_000, 7), (300_000, 2)]


def strip(width: int, height: int) -> DepthResult:
    """The map of a picture in which the network saw a few pixels in the middle, as the task crops it."""
    seen = (min(width, max(1, round(3.31 * height))), min(height, max(1, round(width / 3.31))))
    return answer(depths(), (width, height), ((width - seen[0]) // 2, (height - seen[1]) // 2, *seen))


@pytest.mark.parametrize(("width", "height"), STRIPS)
def test_npy_of_a_strip_is_sent_in_chunks_that_are_neither_many_nor_large(width: int, height: int) -> None:
    """A chunk for each of 600,000 rows took seconds to send; a row of 600,000 pixels was in memory three times."""
    result = strip(width, height)
    encoded = encode_depth(result, "npy")
    chunks = list(encoded.chunks)
    assert max(map(len, chunks)) <= 4 * BAND_VALUES
    assert len(chunks) <= 4 + 3 * math.ceil(width * height / BAND_VALUES)
    assert sum(map(len, chunks)) == encoded.length
    loaded = np.load(io.BytesIO(b"".join(chunks)))
    np.testing.assert_array_equal(loaded, place_in_picture(result.depth_m, result.geometry))


@pytest.mark.parametrize(("width", "height"), STRIPS)
def test_memory_for_a_strip_is_bounded_by_its_pixels(width: int, height: int) -> None:
    result, peaks = strip(width, height), {}
    encoders: dict[str, Callable[[], object]] = {
        "png16": lambda: encode_depth(result, "png16").body,
        "npy": lambda: sum(map(len, encode_depth(result, "npy").chunks)),
        "color": lambda: encode_depth(result, "color", PLAIN).body,
        "json": lambda: json_values(result),
    }
    for name, encode in encoders.items():
        tracemalloc.start()
        try:
            encode()
            peaks[name] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert max(peaks.values()) < 25 * width * height, peaks


# ---- scale bars ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [20, 80, 608, 3000])
def test_the_scale_bar_stands_below_an_unchanged_picture(width: int) -> None:
    depth_m = np.linspace(2, 60, 8 * width, dtype=np.float32).reshape(8, width)
    plain = opened(encode_depth(answer(depth_m), "color", PLAIN).body)
    barred = opened(encode_depth(answer(depth_m), "color").body)
    assert plain.shape == (8, width, 3)
    np.testing.assert_array_equal(barred[:8, :width], plain)
    below = barred[8:]
    assert below.shape[0] >= 35
    assert below.shape[1] == max(width, 140)
    # One row of the bar has the whole colour map, from near at the left to far at the right.
    row = below[below.shape[0] // 4].astype(int)
    colored = row[np.ptp(row, axis=1) > 20]
    assert np.abs(colored[0] - (253, 231, 37)).max() < 12
    assert np.abs(colored[-1] - (68, 1, 84)).max() < 12
    ink = (below < 90).all(axis=2).any(axis=0)
    assert ink.sum() > 10, "there are figures"


@pytest.mark.parametrize(
    ("near", "far", "first"),
    [(2.0, 80.0, "10 m"), (4.31, 61.2, "10 m"), (0.3, 2.0, "1 m"), (10.2, 10.9, "10.2 m"), (41.0, 376.0, "100 m")],
)
def test_ticks_are_round_depths_at_their_place(near: float, far: float, first: str) -> None:
    ticks = list(depth_ticks(near, far))
    assert ticks[0].label == first
    assert len(ticks) >= 2
    for tick in ticks:
        depth_m = float(tick.label.removesuffix(" m"))
        at = (1 / near - 1 / depth_m) / (1 / near - 1 / far)
        assert tick.at == pytest.approx(at, abs=1e-9)
        assert -1e-9 <= tick.at <= 1 + 1e-9


def test_a_map_of_one_depth_has_figures_too() -> None:
    assert [tick.label for tick in depth_ticks(10, 10.01)][:2] == ["10.00 m", "10.01 m"]
    assert opened(encode_depth(answer(np.full((4, 4), 10, np.float32)), "color").body).shape[1] == 140


@pytest.mark.parametrize(("width", "height"), STRIPS)
def test_no_scale_bar_enlarges_a_picture_many_times(width: int, height: int) -> None:
    """1 x 50,000,000 pixels would become 140 times as many, of four bytes each."""
    tracemalloc.start()
    try:
        with pytest.raises(BadParameterError, match=f"{width} x {height} pixels") as caught:
            encode_depth(strip(width, height), "color")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (caught.value.parameter, "scale_bar=false" in caught.value.remedy) == ("scale_bar", True)
    assert peak < 2_000_000
    assert opened(encode_depth(strip(width, height), "color", PLAIN).body).shape[:2] == (height, width)


@pytest.mark.parametrize(("width", "height"), [(1, 5000), (7, 7000), (20_000, 1), (71, 30_000), (20_000, 300)])
def test_strips_that_a_scale_bar_enlarges_less_have_one(width: int, height: int) -> None:
    pixels = opened(encode_depth(strip(width, height), "color").body)
    assert pixels.shape[0] >= height + 35
    assert pixels.shape[1] == max(width, 140)
    assert pixels.shape[0] * pixels.shape[1] <= width * height + max(width * height, 1_000_000)


def test_scale_bar_in_a_picture_with_transparency_is_opaque() -> None:
    pixels = opened(encode_depth(in_picture(), "color").body)
    assert pixels.shape[2] == 4
    assert (pixels[90:, :, 3] == 255).all()
