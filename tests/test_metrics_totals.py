"""Totals of a model version over its variants and kernels, as Triton's statistics have them."""

from prometheus_client import CollectorRegistry

from service.metrics import Metrics, RunLabels


def run_of(version: str = "1", variant: str = "binary") -> RunLabels:
    return RunLabels(task="classify", model="m", version=version, variant=variant, kernel="scalar")


def test_variants_are_added_up_and_versions_are_not() -> None:
    requests = Metrics(CollectorRegistry()).requests
    for variant in ("binary", "full"):
        requests.answered_by(**run_of(variant=variant)).answered({"inference": 0.25, "total": 0.5})
    requests.answered_by(**run_of("2")).answered({"total": 4.0})
    requests.count_request("expired", **run_of())
    found = requests.totals()
    first, second = found["m", "1"], found["m", "2"]
    assert first.outcomes == {"ok": 2, "expired": 1}
    assert (first.images["inference"], first.seconds["inference"], first.seconds["total"]) == (2, 0.5, 1.0)
    assert (second.outcomes["ok"], second.images["inference"], second.seconds["total"]) == (1, 0, 4.0)


def test_batch_sizes_are_exact() -> None:
    requests = Metrics(CollectorRegistry()).requests
    requests.observe_batches([3, 1, 3], **run_of())
    requests.observe_batches([4, 1], **run_of(variant="full"))
    assert requests.totals()["m", "1"].batches == {1: 2, 3: 2, 4: 1}
