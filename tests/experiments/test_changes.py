"""An administrator's changes while the recorder's thread reads the store, too."""

import threading

from prometheus_client import CollectorRegistry

from service.experiments.declaration import Declaration
from service.experiments.experiments import Experiments
from service.experiments.store import Store
from service.metrics import Metrics
from tests.experiments.test_arms import TwoModels


class Slow(Store):
    """A store whose next answer to a reader comes late: when the test says so, or after a moment."""

    def __init__(self) -> None:
        super().__init__(None)
        self.late = False
        self.read, self.go = threading.Event(), threading.Event()

    def declarations(self) -> dict[str, str | None]:
        found = super().declarations()
        if self.late:
            self.late = False
            self.read.set()
            self.go.wait(0.5)
        return found


def test_a_refresh_that_began_before_a_change_does_not_take_it_back() -> None:
    store = Slow()
    experiments = Experiments([], store, TwoModels(), Metrics(CollectorRegistry()).experiments)
    store.late = True
    refresh = threading.Thread(target=experiments.refresh)
    refresh.start()
    assert store.read.wait(10)
    arms = {"baseline": {"model": "a", "variant": "full"}, "candidate": {"model": "b", "variant": "binary"}}
    experiments.put(Declaration.model_validate({"name": "e", "task": "classify", "mode": "split", **arms}))
    store.go.set()
    refresh.join()
    assert [each.name for each in experiments.all()] == ["e"]
    store.close()
