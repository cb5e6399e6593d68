"""What holds for every task."""

from typing import Any, get_args

import numpy as np
import pytest

from service.backends.session import OUTPUT_NAMES
from service.card import Card, TaskName
from service.settings import Settings
from service.tasks import CLASSIFY, DEPTH, TASKS
from tests.cards import classify_card, depth_card
from tests.pictures import picture


def test_tasks_are_found_by_name() -> None:
    assert {"classify": CLASSIFY, "depth": DEPTH} == TASKS
    assert all(task.name == name for name, task in TASKS.items())


def test_a_task_of_cards_has_all_that_its_first_request_needs() -> None:
    """What docs/architecture.md says of a new task. Without the setting, the registry fails at the first request."""
    names = set(get_args(TaskName))
    assert TASKS.keys() == OUTPUT_NAMES.keys() == names
    assert {f"default_{name}_model" for name in names} <= Settings.model_fields.keys()


@pytest.mark.parametrize(
    ("task", "card"), [(CLASSIFY, classify_card()), (DEPTH, depth_card())], ids=["classify", "depth"]
)
def test_preprocessing_is_a_pure_function(task: Any, card: Card) -> None:
    image = picture(301, 217)
    before = image.pixels
    first, second = task.preprocess(image, card), task.preprocess(image, card)
    np.testing.assert_array_equal(first.tensor, second.tensor)
    assert first.geometry == second.geometry
    np.testing.assert_array_equal(image.pixels, before)
    assert first.tensor.dtype == np.uint8
    assert first.tensor.flags.c_contiguous
    assert first.tensor.shape == (card.input.height, card.input.width, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3), (64, 64), (3000, 40), (40, 3000)])
@pytest.mark.parametrize(
    ("task", "card"), [(CLASSIFY, classify_card()), (DEPTH, depth_card())], ids=["classify", "depth"]
)
def test_pictures_of_any_shape_are_prepared(task: Any, card: Card, size: tuple[int, int]) -> None:
    prepared = task.preprocess(picture(*size), card)
    assert prepared.tensor.shape == (card.input.height, card.input.width, 3)
    geometry = prepared.geometry
    assert geometry.left >= 0
    assert geometry.top >= 0
    assert geometry.left + geometry.width <= size[0] + 1e-9
    assert geometry.top + geometry.height <= size[1] + 1e-9


def test_classifiers_agree_on_the_best_class() -> None:
    logits = np.array([0.0, 3.0, 1.0, 3.0, -1.0, 2.0], np.float32)
    assert CLASSIFY.best(logits) == (1, 3, 5, 2, 0), "five at most; of equals the first"
    assert CLASSIFY.agree(logits, logits * 2) == (True, None, None)
    assert CLASSIFY.agree(-logits, logits) == (False, None, None)


@pytest.mark.parametrize(("nearer", "agree"), [(0, True), (10, True), (11, False)])
def test_maps_agree_where_nine_tenths_are_within_a_quarter(nearer: int, agree: bool) -> None:
    a, b = np.full((10, 10), 10.0, np.float32), np.full((10, 10), 10.0, np.float32)
    b.flat[:nearer] = 20.0
    assert DEPTH.agree(a, b) == (agree, 1 - nearer / 100, pytest.approx(nearer / 200))
    assert DEPTH.best(a) == ()
