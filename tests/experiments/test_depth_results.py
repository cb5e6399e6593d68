"""What an experiment says of depth: frames that follow each other are not taken for news."""

import numpy as np
import pytest

from service import statistics as st
from service.experiments.declaration import Declaration
from service.experiments.observation import FeedbackRecord, Score
from service.experiments.reports import in_words
from service.experiments.results import analyse, frames
from service.experiments.store import Store


def declared(mode: str) -> Declaration:
    arms = {"baseline": {"variant": "full"}, "candidate": {"variant": "binary"}}
    return Declaration.model_validate({"name": "e", "task": "depth", "mode": mode, **arms})


def add(store: Store, number: int, own: float, other: float | None, *, arm: str = "full") -> None:
    """Feedback on a map of `arm`, and on the other arm's beside it."""
    beside = None if other is None else Score(abs_rel=0.2, delta1=other)
    scores = {"score": Score(abs_rel=0.2, delta1=own), "other": beside}
    where = {"experiment": "e", "revision": "r", "arm": arm, "label": None, "content": "depth", "task": "depth"}
    store.add_feedback(
        FeedbackRecord(id=f"{number:03}", at=float(number), model="m", version="1", variant=arm, **where, **scores)
    )


def test_of_pairs_the_interval_is_that_of_blocks_and_needs_two_of_them(rng):
    """A street is easy for one network for a second or two: 40 frames say less than 40 streets."""
    easy = np.repeat(rng.normal(0, 0.1, 4), 10)
    store = Store(None)
    differences = []
    for number, shift in enumerate(easy):
        own, other = 0.6, float(0.6 + shift + rng.normal(0, 0.005))
        differences.append(other - own)
        add(store, number, own, other)
        found = analyse(declared("paired"), "r", store).evidence.difference
        assert (found.lower is None) == (number + 1 < 2 * st.BLOCK_FRAMES)
    blocks, independent = frames(differences), st.mean(differences)
    assert (found.estimate, found.lower, found.upper) == pytest.approx(tuple(blocks))
    assert found.upper - found.lower > 1.5 * (independent.upper - independent.lower)


def test_of_a_split_each_image_is_of_another_subject():
    store = Store(None)
    for number in range(12):
        add(store, number, 0.5 + 0.01 * number, None, arm=("full", "binary")[number % 2])
    results = analyse(declared("split"), "r", store)
    assert [arm.counted for arm in results.arms] == [6, 6]
    assert results.evidence.difference.lower is not None


@pytest.mark.parametrize("maps", [1, 2])
def test_a_split_of_a_few_perfect_maps_decides_nothing(maps):
    store, experiment = Store(None), declared("split")
    for number in range(2 * maps):
        add(store, number, 1.0, None, arm=("full", "binary")[number % 2])
    results = analyse(experiment, "r", store)
    found = results.evidence.difference
    assert (found.estimate, found.lower, found.upper) == (0.0, None, None)
    answered = [arm.model_copy(update={"images": maps}) for arm in results.arms]
    assert in_words(experiment, results.model_copy(update={"arms": answered})).conclusion == "undecided"


def test_shares_end_at_0_and_1():
    store = Store(None)
    for number in range(20):
        add(store, number, 0.9 + 0.1 * (number < 10), 0.0 if number < 10 else 0.1)
    full, binary = (arm.accuracy for arm in analyse(declared("paired"), "r", store).arms)
    assert (full.lower, full.upper) == (pytest.approx(0.95 - 12.706 * 0.05, abs=1e-3), 1.0)
    assert (binary.lower, binary.upper) == (0.0, pytest.approx(0.05 + 12.706 * 0.05, abs=1e-3))
