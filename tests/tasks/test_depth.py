"""Depth: the region that is seen, metres and focal lengths, figures, and the map at the picture's own size."""

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from service.card import Card
from service.errors import BadOutputError, BadParameterError
from service.imaging import decode
from service.tasks import DEPTH, DepthOptions, Geometry
from service.tasks.depth import place_in_picture, resize_depth
from tests.cards import classify_card, depth_card
from tests.pictures import coordinates, jpeg, picture

KITTI = (1242, 375)
KITTI_CARD: dict[str, Any] = {
    "input": {"height": 160, "width": 608},
    "depth": {"fx_px": 721.5377 * 608 / 1242, "aspect": 1242 / 375},
}


# --- depth: preprocessing --------------------------------------------------------------------------------------------


def test_kitti_geometry() -> None:
    """A whole KITTI frame: 721.5 px of focal length become 353.2 px, at scales 0.490 and 0.427."""
    card = depth_card(**KITTI_CARD)
    geometry = DEPTH.preprocess(picture(*KITTI), card).geometry
    assert geometry == Geometry(1242, 375, 0, 0, 1242, 375, 608, 160)
    assert geometry.scale_x == pytest.approx(0.490, abs=5e-4)
    assert geometry.scale_y == pytest.approx(0.427, abs=5e-4)
    assert 721.5377 * geometry.scale_x == pytest.approx(353.2, abs=0.05)


@pytest.mark.parametrize("size", [(1242, 375), (1241, 376), (1238, 374), (1226, 370), (1224, 370)])
def test_all_of_kittis_cameras_are_seen_whole_but_for_a_line(size: tuple[int, int]) -> None:
    geometry = DEPTH.preprocess(picture(*size), depth_card(**KITTI_CARD)).geometry
    assert size[0] - geometry.width <= 2
    assert size[1] - geometry.height <= 2


@pytest.mark.parametrize(
    ("size", "region"),
    [
        ((1920, 1080), (0, 250, 1920, 580)),
        ((4000, 375), (1379, 0, 1242, 375)),
        ((400, 400), (0, 139, 400, 121)),
    ],
)
def test_other_shapes_are_cut_around_the_centre(size: tuple[int, int], region: tuple[int, int, int, int]) -> None:
    geometry = DEPTH.preprocess(picture(*size), depth_card(**KITTI_CARD)).geometry
    assert (geometry.left, geometry.top, geometry.width, geometry.height) == region
    assert all(float(value).is_integer() for value in region)


def test_depth_sees_the_middle_rows_of_a_tall_picture() -> None:
    tensor = DEPTH.preprocess(coordinates(400, 400), depth_card(**KITTI_CARD)).tensor
    assert tensor[:, :, 0].min() <= 1
    assert tensor[:, :, 0].max() >= 249
    assert tensor[:, :, 1].mean() == pytest.approx(125, abs=1)
    assert int(tensor[-1, 0, 1]) - int(tensor[0, 0, 1]) == pytest.approx(250 * 120 / 400, abs=3)


@pytest.mark.parametrize("size", [(4000, 2250), (2600, 785), (9000, 1000)])
def test_depth_hint_keeps_twice_the_input_whichever_side_is_cut(size: tuple[int, int]) -> None:
    card = depth_card(**KITTI_CARD)
    image = decode(jpeg(picture(*size)), hint=DEPTH.decode_hint(card))
    assert image.report.reduction == 2
    geometry = DEPTH.preprocess(image, card).geometry
    assert geometry.width / 2 >= 2 * card.input.width
    assert geometry.height / 2 >= 2 * card.input.height


def test_kitti_frames_are_decoded_in_full() -> None:
    image = decode(jpeg(picture(*KITTI)), hint=DEPTH.decode_hint(depth_card(**KITTI_CARD)))
    assert image.report.reduction == 1


def test_cards_of_another_task_are_refused() -> None:
    with pytest.raises(ValueError, match="not a depth model"):
        DEPTH.preprocess(picture(64, 64), classify_card())


# --- depth: postprocessing -------------------------------------------------------------------------------------------


def ramp(card: Card) -> npt.NDArray[np.float32]:
    """Depth that falls from 64 m in the first row to 4 m in the last, and is the same along a row."""
    rows = np.linspace(64, 4, card.input.height, dtype=np.float32)
    return rows[:, None].repeat(card.input.width, axis=1)


def test_metres_of_the_training_camera_are_left_alone_and_said_to_be_assumed() -> None:
    card = depth_card(**KITTI_CARD)
    prepared = DEPTH.preprocess(picture(*KITTI), card)
    result = DEPTH.postprocess(ramp(card), prepared, card, DepthOptions())
    np.testing.assert_array_equal(result.depth_m, ramp(card))
    assert result.depth_m.dtype == np.float32
    assert result.focal.source == "assumed"
    assert result.focal.fx_px == pytest.approx(721.5377)


def test_the_training_cameras_own_focal_length_changes_nothing() -> None:
    card = depth_card(**KITTI_CARD)
    prepared = DEPTH.preprocess(picture(*KITTI), card)
    result = DEPTH.postprocess(ramp(card), prepared, card, DepthOptions(fx_px=721.5377))
    np.testing.assert_allclose(result.depth_m, ramp(card), rtol=1e-6)
    assert result.focal.source == "query"


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_depth_follows_the_focal_length_and_not_the_size_of_the_file(scale: float) -> None:
    """The same view at another resolution has its focal length scaled likewise: the metres stay."""
    card = depth_card(**KITTI_CARD)
    prepared = DEPTH.preprocess(picture(round(1242 * scale), round(375 * scale)), card)
    result = DEPTH.postprocess(ramp(card), prepared, card, DepthOptions(fx_px=721.5377 * scale))
    np.testing.assert_allclose(result.depth_m, ramp(card), rtol=2e-3)


def test_twice_the_focal_length_is_twice_as_far() -> None:
    card = depth_card(**KITTI_CARD)
    prepared = DEPTH.preprocess(picture(*KITTI), card)
    result = DEPTH.postprocess(ramp(card), prepared, card, DepthOptions(fx_px=2 * 721.5377))
    np.testing.assert_allclose(result.depth_m, 2 * ramp(card), rtol=1e-5)
    assert result.summary.max_m == pytest.approx(128, rel=1e-5)


@pytest.mark.parametrize("fx", [0.0, -1.0, 1e-30, 1e30, math.nan, math.inf])
def test_focal_lengths_that_cannot_be(fx: float) -> None:
    with pytest.raises(BadParameterError, match="fx is") as caught:
        DepthOptions(fx_px=fx)
    assert caught.value.problem()["parameter"] == "fx"


def test_sizes_that_do_not_exist() -> None:
    with pytest.raises(BadParameterError, match="network or original"):
        DepthOptions(size="huge")  # type: ignore[arg-type]


def test_summary() -> None:
    card = depth_card()
    height, width = card.input.height, card.input.width
    output = np.arange(1, 1 + height * width, dtype=np.float32).reshape(height, width)
    prepared = DEPTH.preprocess(picture(331, 100), card)
    summary = DEPTH.postprocess(output, prepared, card, DepthOptions()).summary
    assert (summary.min_m, summary.max_m) == (1.0, height * width)
    assert summary.median_m == pytest.approx((1 + height * width) / 2)
    assert len(summary.row_percentiles_m) == height
    assert summary.percentiles == (10, 50, 90)
    expected = np.percentile(output[3], [10, 50, 90])
    assert summary.row_percentiles_m[3] == pytest.approx(expected, abs=1e-3)
    json.dumps(summary.row_percentiles_m)


def test_original_size_is_that_of_the_picture_and_valid_where_the_network_saw_it() -> None:
    card = depth_card(**KITTI_CARD)
    prepared = DEPTH.preprocess(picture(1920, 1080), card)
    network = DEPTH.postprocess(ramp(card), prepared, card, DepthOptions())
    original = DEPTH.postprocess(ramp(card), prepared, card, DepthOptions(size="original"))
    assert (network.map_size, network.valid) == ((160, 608), (0, 0, 608, 160))
    assert (original.map_size, original.valid) == ((1080, 1920), (0, 250, 1920, 580))
    assert original.summary == network.summary, "figures are those of the network's map"
    tops, bands = zip(*original.bands(), strict=True)
    assert len(bands) > 3
    assert list(tops) == list(np.cumsum([0, *map(len, bands)])[:-1])
    joined = np.concatenate(bands)
    assert joined.shape == (580, 1920)
    np.testing.assert_allclose(joined, resize_depth(ramp(card), 580, 1920), rtol=1e-4)
    assert joined[0, 0] == pytest.approx(64, abs=0.01)
    assert joined[-1, -1] == pytest.approx(4, abs=0.01)
    assert joined[290, 7] == pytest.approx(34, abs=0.2)


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 900), (5, 7), (9000, 3), (300, 4000)])
def test_any_size_and_aspect_has_a_map_of_its_own_size(size: tuple[int, int]) -> None:
    card = depth_card(**KITTI_CARD)
    prepared = DEPTH.preprocess(picture(*size), card)
    result = DEPTH.postprocess(ramp(card), prepared, card, DepthOptions(size="original"))
    left, top, width, height = result.valid
    assert result.map_size == (size[1], size[0])
    assert 0 <= left <= left + width <= size[0]
    assert 0 <= top <= top + height <= size[1]
    assert min(width, height) >= 1
    assert np.concatenate([band for _, band in result.bands()]).shape == (height, width)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_depths_that_cannot_be_used(value: float) -> None:
    card = depth_card()
    output = ramp(card)
    output[3, 4] = value
    with pytest.raises(BadOutputError, match="finite and above 0"):
        DEPTH.postprocess(output, DEPTH.preprocess(picture(331, 100), card), card, DepthOptions())


def test_maps_of_the_wrong_shape() -> None:
    card = depth_card()
    with pytest.raises(BadOutputError, match="shape"):
        DEPTH.postprocess(ramp(card).T, DEPTH.preprocess(picture(331, 100), card), card, DepthOptions())


def test_bilinear_scaling_puts_pixel_centres_at_halves() -> None:
    small = np.array([[0.0, 4.0]], dtype=np.float32)
    assert resize_depth(small, 1, 4).tolist() == [[0.0, 1.0, 3.0, 4.0]]
    np.testing.assert_array_equal(resize_depth(small, 1, 2), small)


def test_place_in_picture() -> None:
    placed = place_in_picture(np.full((2, 3), 7, np.float32), Geometry(10, 8, 2, 3, 6, 4, 3, 2))
    assert placed.shape == (8, 10)
    assert np.isnan(placed).sum() == 80 - 24
    assert (placed[3:7, 2:8] == 7).all()
