"""The recorder: what is put is stored, what cannot be stored is counted, and old rows go."""

import time

import pytest
from prometheus_client import CollectorRegistry

from service.errors import FeedbackStoreError
from service.experiments import recorder as module
from service.experiments.recorder import Recorder, Retention
from service.experiments.store import Store
from service.metrics import Metrics
from tests.experiments.test_store import observation
from tests.waiting import wait

LOST = "bireal_experiment_observations_lost_total"
EVERYTHING = Retention(max_age_s=1e12, max_rows=10**9)


class Broken:
    """A store that cannot be written, and counts the attempts."""

    def __init__(self) -> None:
        self.writes = 0

    def add_observations(self, observations) -> None:
        self.writes += 1
        raise FeedbackStoreError("The disk is full.")

    def prune(self, **limits) -> dict[str, int]:
        return {"age": 0, "count": 0}

    def shrink(self) -> None:
        pass


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def make(registry):
    metrics = Metrics(registry).feedback
    return lambda store, retention=EVERYTHING: Recorder(store, retention, metrics)


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "store.sqlite")
    yield made
    made.close()


def observed(store: Store) -> set[str]:
    return {row["id"] for row in store.observations("e", "r", 100)}


@pytest.mark.parametrize("started", [True, False])
def test_whatever_was_put_is_in_the_store_once_it_is_closed(make, store, registry, started):
    recorder = make(store)
    if started:
        recorder.start()
    for number in range(20):
        recorder.put(observation(number))
    recorder.close()
    assert observed(store) == {f"id-{number}" for number in range(20)}
    assert registry.get_sample_value(LOST) == 0


def test_it_writes_without_being_closed(make, store, monkeypatch):
    monkeypatch.setattr(module, "_FLUSH_S", 0.01)
    recorder = make(store)
    recorder.start()
    recorder.put(observation(1))
    wait(lambda: observed(store), 30)
    assert observed(store) == {"id-1"}
    recorder.close()


def test_what_cannot_be_stored_is_counted_and_the_thread_goes_on(make, registry, monkeypatch, caplog):
    monkeypatch.setattr(module, "_FLUSH_S", 0.01)
    broken = Broken()
    recorder = make(broken)
    recorder.put(observation(1))
    recorder.put(observation(2))
    recorder.start()
    wait(lambda: broken.writes >= 2, 30)
    recorder.put(observation(3))
    recorder.close()
    assert registry.get_sample_value(LOST) == 3
    assert "2 observations of experiments are lost: " in caplog.text


def test_what_has_no_room_is_counted_as_lost(make, store, registry):
    recorder = make(store)
    for number in range(10_001):
        recorder.put(observation(number))
    assert registry.get_sample_value(LOST) == 1
    recorder.close()
    assert store.size()[0]["observations"] == 10_000
    assert registry.get_sample_value(LOST) == 1


def test_old_rows_are_removed_while_it_runs_and_counted(make, store, registry, monkeypatch):
    monkeypatch.setattr(module, "_FLUSH_S", 0.01)
    now = time.time()
    ages_s = [5000, 4000, 3000, 20, 10, 5]
    store.add_observations([observation(number, at=now - age_s) for number, age_s in enumerate(ages_s)])
    recorder = make(store, Retention(max_age_s=3600.0, max_rows=3))
    recorder.start()
    wait(lambda: store.size()[0]["observations"] == 3, 30)
    recorder.close()
    assert observed(store) == {"id-3", "id-4", "id-5"}
    removed = {
        reason: registry.get_sample_value("bireal_feedback_removed_total", {"reason": reason})
        for reason in ("age", "count")
    }
    assert removed == {"age": 2, "count": 1}
