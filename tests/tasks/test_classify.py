"""Classification: the crop, on real photographs, and the classes, from logits whose answer is known."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from service.card import Card
from service.errors import BadOutputError, BadParameterError
from service.imaging import DecodedImage, decode
from service.tasks import CLASSIFY, ClassifyOptions, Geometry, Prepared
from tests.cards import classify_card, depth_card
from tests.pictures import coordinates, jpeg, mean_difference, of_pixels, picture

# --- classification: preprocessing -----------------------------------------------------------------------------------


def resize_then_crop(image: DecodedImage, card: Card) -> npt.NDArray[np.uint8]:
    """The paper's preprocessing in two plain steps."""
    shorter = card.input.resize_shorter
    assert shorter is not None
    width, height = image.image.size
    scale = shorter / min(width, height)
    scaled = image.image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left = (scaled.width - card.input.width) // 2
    top = (scaled.height - card.input.height) // 2
    return np.asarray(scaled.crop((left, top, left + card.input.width, top + card.input.height)))


@pytest.mark.parametrize("size", [(512, 512), (640, 512), (512, 768), (256, 128), (1280, 1024)])
def test_one_step_equals_resize_then_crop_where_that_is_exact(size: tuple[int, int]) -> None:
    """Sizes whose scaled sides and crop offsets are whole numbers: the two ways differ by rounding only."""
    image, card = picture(*size), classify_card()
    one_step = CLASSIFY.preprocess(image, card).tensor
    two_steps = resize_then_crop(image, card)
    assert np.abs(one_step.astype(np.int16) - two_steps).max() <= 1


def test_one_step_stays_close_to_resize_then_crop_elsewhere() -> None:
    image, card = picture(451, 300), classify_card()
    assert mean_difference(CLASSIFY.preprocess(image, card).tensor, resize_then_crop(image, card)) < 4


def test_picture_of_the_exact_size_is_left_alone() -> None:
    card = classify_card(input={"height": 64, "width": 64, "resize_shorter": 64})
    image = picture(64, 64)
    np.testing.assert_array_equal(CLASSIFY.preprocess(image, card).tensor, image.pixels)


@pytest.mark.parametrize("size", [(640, 480), (480, 640)])
def test_centre_of_the_picture_is_the_centre_of_the_crop(size: tuple[int, int]) -> None:
    prepared = CLASSIFY.preprocess(coordinates(*size), classify_card())
    red, green = prepared.tensor[:, :, 0].astype(float), prepared.tensor[:, :, 1].astype(float)
    assert red.mean() == pytest.approx(125, abs=0.6)
    assert green.mean() == pytest.approx(125, abs=0.6)
    # 56 of 64 network pixels of the shorter side are seen.
    shorter = green if size[0] > size[1] else red
    assert shorter.max() - shorter.min() == pytest.approx(250 * 55 / 64, abs=3)


def test_geometry_names_the_region_seen() -> None:
    geometry = CLASSIFY.preprocess(picture(640, 512), classify_card()).geometry
    assert geometry == Geometry(640, 512, left=96, top=32, width=448, height=448, input_width=56, input_height=56)
    assert geometry.scale_x == geometry.scale_y == 0.125


def test_crops_that_are_not_square() -> None:
    card = classify_card(input={"height": 32, "width": 64, "resize_shorter": 64})
    prepared = CLASSIFY.preprocess(coordinates(200, 100), card)
    assert prepared.tensor.shape == (32, 64, 3)
    assert (prepared.geometry.width, prepared.geometry.height) == (100, 50)


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    tensor = CLASSIFY.preprocess(of_pixels(stripes), classify_card()).tensor
    assert np.abs(tensor.astype(int) - 127).max() <= 2


def test_reduced_decoding_gives_nearly_the_same_input() -> None:
    card = classify_card()
    data = jpeg(picture(1024, 800))
    reduced = decode(data, hint=CLASSIFY.decode_hint(card))
    assert reduced.report.reduction == 4
    a, b = CLASSIFY.preprocess(reduced, card), CLASSIFY.preprocess(decode(data), card)
    assert a.geometry == b.geometry, "the region is one of the uploaded picture"
    assert mean_difference(a.tensor, b.tensor) < 1.5


def test_reduced_decoding_shifts_nothing_when_the_size_is_not_divisible() -> None:
    card = classify_card()
    data = jpeg(coordinates(1021, 803))
    reduced = decode(data, hint=CLASSIFY.decode_hint(card))
    assert reduced.report.reduction == 4
    a, b = CLASSIFY.preprocess(reduced, card).tensor, CLASSIFY.preprocess(decode(data), card).tensor
    difference = a.astype(np.int16) - b
    assert np.abs(difference[:, :, :2]).max() <= 4
    assert np.abs(difference[:, :, :2].mean(axis=(0, 1))).max() < 0.3, "a shift would show as a bias"


def test_variants_of_a_model_share_hint_and_input() -> None:
    """Twins have the same input part, so the pixels are the same for every variant."""
    binary = classify_card()
    twin = Card.model_validate(
        {
            **classify_card().model_dump(),
            "precision": "full",
            "full": None,
            "metrics": (),
            "network": {"arch": "resnet", "depth": 18, "structure": "res", "method": "none"},
        }
    )
    assert CLASSIFY.decode_hint(binary) == CLASSIFY.decode_hint(twin) == (64, 64)
    image = picture(300, 200)
    np.testing.assert_array_equal(CLASSIFY.preprocess(image, binary).tensor, CLASSIFY.preprocess(image, twin).tensor)


def test_cards_of_another_task_are_refused() -> None:
    with pytest.raises(ValueError, match="not a classifier"):
        CLASSIFY.preprocess(picture(64, 64), depth_card())


# --- classification: postprocessing ----------------------------------------------------------------------------------

ANY_CROP = Prepared(np.zeros((56, 56, 3), np.uint8), Geometry(56, 56, 0, 0, 56, 56, 56, 56))


def classify(logits: list[float], **options: Any) -> Any:
    return CLASSIFY.postprocess(np.array(logits, np.float32), ANY_CROP, classify_card(), ClassifyOptions(**options))


def test_softmax_of_known_logits() -> None:
    result = classify([0.0, math.log(6), math.log(3)])
    assert [p.name for p in result.predictions] == ["Shih-Tzu", "warplane", "tabby cat"]
    assert [p.probability for p in result.predictions] == pytest.approx([0.6, 0.3, 0.1], rel=1e-6)
    assert [(p.index, p.wnid) for p in result.predictions] == [(1, "n02086240"), (2, "n04552348"), (0, "n02123045")]
    assert result.probabilities.tolist() == pytest.approx([0.1, 0.6, 0.3], rel=1e-6)


def test_large_logits_do_not_overflow() -> None:
    result = classify([3e38, -3e38, 0.0])
    assert [p.probability for p in result.predictions] == [1.0, 0.0, 0.0]


def test_equal_logits_keep_the_order_of_the_card() -> None:
    assert [p.index for p in classify([1.0, 1.0, 1.0]).predictions] == [0, 1, 2]


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (3, 3), (1000, 3)])
def test_top_k(top_k: int, count: int) -> None:
    assert len(classify([1.0, 2.0, 3.0], top_k=top_k).predictions) == count


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_below_one_is_refused(top_k: int) -> None:
    with pytest.raises(BadParameterError, match="top_k is") as caught:
        ClassifyOptions(top_k=top_k)
    assert caught.value.status == 422


@pytest.mark.parametrize(("threshold", "uncertain"), [(0.0, False), (0.59, False), (0.61, True), (1.0, True)])
def test_uncertain_below_the_threshold(threshold: float, uncertain: bool) -> None:
    result = classify([0.0, math.log(6), math.log(3)], min_probability=threshold, top_k=1)
    assert result.uncertain is uncertain
    assert result.min_probability == threshold
    assert len(result.predictions) == 1, "an uncertain answer is still given"


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan, math.inf])
def test_thresholds_outside_0_to_1_are_refused(threshold: float) -> None:
    with pytest.raises(BadParameterError, match="min_probability"):
        ClassifyOptions(min_probability=threshold)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ([1.0, 2.0], "shape"),
        ([1.0, 2.0, 3.0, 4.0], "shape"),
        ([1.0, math.nan, 0.0], "finite"),
        ([math.inf, 0, 0], "finite"),
    ],
)
def test_logits_that_cannot_be_used(logits: list[float], message: str) -> None:
    with pytest.raises(BadOutputError, match=message):
        classify(logits)
