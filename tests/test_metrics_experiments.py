"""Metrics of experiments, feedback and parity: what Prometheus reads after known events."""

import threading
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from service.metrics import Bounds, LiveScores, Metrics, TargetLabels
from tests.test_metrics import samples, value

MODEL = {"task": "classify", "model": "m", "version": "1"}
TARGET = TargetLabels(task="classify", model="m", version="1", variant="binary")


def test_an_experiment_from_declaration_to_verdict_and_its_removal() -> None:
    metrics = Metrics(CollectorRegistry())
    shown = metrics.experiments
    shown.set_state("e", "split", running=True, weights={"full": 0.9, "renamed": 0.1})
    shown.set_state("e", "paired", running=False, weights={"full": 1.0, "binary": 0.5})
    shown.count_request("e", "full", 0.002)
    shown.count_shadow("e", "binary", "ok", 0.001)
    shown.count_shadow("e", "binary", "dropped")
    shown.count_pair("e", agree=False)
    shown.set_agreement("e", Bounds(0.9, 0.8, 0.95))
    shown.set_latency_ratio("e", Bounds(0.2, 0.1, 0.3))
    shown.set_accuracy("e", "full", "top1", Bounds(0.5, 0.4, 0.6))
    shown.set_labelled("e", {"both": 3, "baseline": 1, "candidate": 0, "neither": 2})
    shown.set_evidence("e", e_value=0.7, p_value=None)
    assert value(metrics, "bireal_experiment_running", experiment="e", mode="paired") == 0
    assert value(metrics, "bireal_experiment_running", experiment="e", mode="split") is None
    assert value(metrics, "bireal_experiment_weight", experiment="e", arm="binary") == 0.5
    assert value(metrics, "bireal_experiment_weight", experiment="e", arm="renamed") is None
    assert value(metrics, "bireal_experiment_requests_total", experiment="e", arm="full") == 1
    assert value(metrics, "bireal_experiment_inference_seconds_count", experiment="e", arm="binary") == 1
    assert value(metrics, "bireal_experiment_shadow_total", experiment="e", outcome="dropped") == 1
    assert value(metrics, "bireal_experiment_pairs_total", experiment="e", agree="false") == 1
    assert value(metrics, "bireal_experiment_agreement", experiment="e", bound="lower") == 0.8
    assert value(metrics, "bireal_experiment_latency_ratio", experiment="e", bound="upper") == 0.3
    assert (
        value(metrics, "bireal_experiment_accuracy", experiment="e", arm="full", metric="top1", bound="estimate") == 0.5
    )
    assert value(metrics, "bireal_experiment_labelled_pairs", experiment="e", result="neither") == 2
    assert value(metrics, "bireal_experiment_e_value", experiment="e") == 0.7
    assert value(metrics, "bireal_experiment_p_value", experiment="e") is None
    shown.remove("e")
    left = {name for name, labels in samples(metrics) if ("experiment", "e") in labels}
    assert left
    assert all(name.endswith(("_total", "_created", "_count", "_sum", "_bucket")) for name in left), left


def test_feedback() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.feedback.count("classify", "stored")
    metrics.feedback.show_live([LiveScores(TARGET, 20, {"top1": Bounds(0.5, 0.4, 0.6)})])
    metrics.feedback.set_store({"feedback": 20, "observations": 7}, 4096)
    metrics.feedback.count_removed("age", 3)
    metrics.feedback.count_lost(2)
    assert value(metrics, "bireal_feedback_total", task="classify", outcome="stored") == 1
    assert value(metrics, "bireal_live_accuracy", **TARGET, metric="top1", bound="upper") == 0.6
    assert value(metrics, "bireal_live_accuracy_images", **TARGET) == 20
    assert value(metrics, "bireal_feedback_rows", table="observations") == 7
    assert value(metrics, "bireal_feedback_store_bytes") == 4096
    assert value(metrics, "bireal_feedback_removed_total", reason="age") == 3
    assert value(metrics, "bireal_experiment_observations_lost_total") == 2


def _always_there(metrics: Metrics, change: Callable[[int], None], name: str, **labels: str) -> None:
    """Fails where a scrape beside many changes misses a series: an alert's `for` begins anew at such a gap."""
    going, seen = threading.Event(), list[float | None]()

    def scrape() -> None:
        while not going.is_set():
            seen.append(value(metrics, name, **labels))

    change(0)
    scraper = threading.Thread(target=scrape)
    scraper.start()
    number = 0
    while len(seen) < 100 and None not in seen:
        change(number := (number + 1) % 300)
    going.set()
    scraper.join()
    assert None not in seen


def test_a_scrape_never_misses_a_variant_that_is_still_there() -> None:
    metrics = Metrics(CollectorRegistry())
    other = TargetLabels(**{**TARGET, "variant": "full"})

    def change(number: int) -> None:
        scores = {"top1": Bounds(number / 300, 0.4, 0.6)}
        found = [LiveScores(TARGET, 20, scores), *([LiveScores(other, 5, scores)] if number % 2 else [])]
        metrics.feedback.show_live(found)

    _always_there(metrics, change, "bireal_live_accuracy", **TARGET, metric="top1", bound="upper")
    change(1)
    assert value(metrics, "bireal_live_accuracy_images", **other) == 5
    change(0)
    assert value(metrics, "bireal_live_accuracy_images", **other) is None
    assert value(metrics, "bireal_live_accuracy", **other, metric="top1", bound="upper") is None


def test_a_scrape_never_misses_an_experiment_that_is_changed() -> None:
    metrics = Metrics(CollectorRegistry())

    def change(number: int) -> None:
        metrics.experiments.set_state("e", "split", running=True, weights={"full": 0.5, f"arm-{number % 2}": 0.5})

    _always_there(metrics, change, "bireal_experiment_weight", experiment="e", arm="full")
    change(1)
    assert value(metrics, "bireal_experiment_weight", experiment="e", arm="arm-0") is None


def test_parity() -> None:
    metrics = Metrics(CollectorRegistry())
    parity = metrics.parity
    parity.count_image("ok", **MODEL)
    parity.observe(5e-4, agree=True, **MODEL)
    parity.set_sign_agreement("l1", 0.999, **MODEL)
    parity.count_layer("l1", exact=True, **MODEL)
    parity.count_layer("l1", exact=False, **MODEL)
    parity.count_probe(same=True, **MODEL)
    parity.set_ok(False, **MODEL)
    assert value(metrics, "bireal_parity_images_total", **MODEL, outcome="ok") == 1
    assert value(metrics, "bireal_parity_agreement_total", **MODEL, agree="true") == 1
    assert value(metrics, "bireal_parity_difference_bucket", **MODEL, le="0.0003") == 0
    assert value(metrics, "bireal_parity_difference_bucket", **MODEL, le="0.001") == 1
    assert value(metrics, "bireal_parity_layer_sign_agreement", **MODEL, layer="l1") == 0.999
    assert value(metrics, "bireal_parity_layer_checks_total", **MODEL, layer="l1") == 2
    assert value(metrics, "bireal_parity_layer_mismatches_total", **MODEL, layer="l1") == 1
    assert value(metrics, "bireal_parity_probes_total", **MODEL, same="true") == 1
    assert value(metrics, "bireal_parity_ok", **MODEL) == 0
    parity.remove("m", "1")
    assert value(metrics, "bireal_parity_ok", **MODEL) is None
