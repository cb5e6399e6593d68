"""Metrics: what Prometheus reads after known events, bounded labels, and a handbook that names every one of them."""

import itertools
import math
import mmap
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.imaging import ImageReport
from service.metrics import (
    BATCH_BUCKETS,
    OUTCOMES,
    STAGES,
    TIME_BUCKETS,
    Metrics,
    RunLabels,
    TargetLabels,
    markdown_table,
)
from service.metrics.base import Histogram
from tests.cards import classify_card, full_card

ROOT = Path(__file__).resolve().parent.parent
TARGET = TargetLabels(task="classify", model="bireal18-test", version="1", variant="binary")
RUN = RunLabels(**TARGET, kernel="avx2")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Everything that a scrape gives, as a client reads it."""
    text = generate_latest(metrics.registry).decode("utf-8")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((name, tuple(sorted(labels.items()))))


# --- requests --------------------------------------------------------------------------------------------------------


def test_buckets_start_at_100_microseconds_and_grow_by_half() -> None:
    assert TIME_BUCKETS[0] == 1e-4
    assert TIME_BUCKETS[-1] > 20
    ratios = [b / a for a, b in itertools.pairwise(TIME_BUCKETS)]
    assert ratios == pytest.approx([1.5] * len(ratios), rel=0.01)
    assert list(BATCH_BUCKETS) == sorted(BATCH_BUCKETS)


def test_stages(metrics: Metrics) -> None:
    for stage in STAGES:
        for seconds in (0.002, 0.004):
            metrics.requests.answered_by(**RUN).answered({stage: seconds})
        labels = {**RUN, "stage": stage}
        assert value(metrics, "bireal_stage_seconds_count", **labels) == 2
        assert value(metrics, "bireal_stage_seconds_sum", **labels) == pytest.approx(0.006)
        assert value(metrics, "bireal_stage_seconds_bucket", le="0.00256", **labels) == 1
        assert value(metrics, "bireal_stage_seconds_bucket", le="0.00577", **labels) == 2


@pytest.mark.parametrize("at_once", [False, True])
def test_values_that_are_not_finite_are_counted_and_not_summed(at_once: bool) -> None:
    registry = CollectorRegistry()
    histogram = Histogram("seconds", "for the test", registry=registry, buckets=(1, 2))
    amounts = (0.5, math.nan, math.inf, -math.inf, 1.5)
    if at_once:
        histogram.observe_all(amounts)
    else:
        for amount in amounts:
            histogram.observe(amount)
    counts = [registry.get_sample_value("seconds_bucket", {"le": bound}) for bound in ("1.0", "2.0", "+Inf")]
    assert counts == [2, 3, 5], "NaN is above every bound, not below"
    assert registry.get_sample_value("seconds_sum") == 2


def test_outcomes(metrics: Metrics) -> None:
    for outcome in OUTCOMES:
        metrics.requests.count_request(outcome, **RUN)
        assert value(metrics, "bireal_requests_total", **RUN, outcome=outcome) == 1


def test_counters_of_what_is_served_begin_at_0(metrics: Metrics) -> None:
    metrics.requests.begin(**RUN)
    metrics.requests.begin_routes(["/classify"])
    model = {name: RUN[name] for name in ("task", "model", "version")}
    metrics.requests.begin_fallback(**model)
    for outcome in OUTCOMES:
        assert value(metrics, "bireal_requests_total", **RUN, outcome=outcome) == 0
    assert value(metrics, "bireal_stage_seconds_count", **RUN, stage="total") == 0
    assert value(metrics, "bireal_fallback_total", **model, requested="binary", ran="reference") == 0
    assert value(metrics, "bireal_http_requests_total", method="POST", route="/classify", status="504") == 0
    assert value(metrics, "bireal_client_deadline_seconds_count", route="/classify") == 0
    for name in ("bireal_rejected_total", "bireal_expired_total", "bireal_cancelled_total"):
        assert value(metrics, name, **TARGET) == 0


def test_every_series_belongs_to_a_documented_metric(metrics: Metrics) -> None:
    """The client's gauges of the moment of creation, for one, are turned off."""
    metrics.requests.begin(**RUN)
    metrics.requests.answered_by(**RUN).answered({"total": 0.002})
    named = {doc.name for doc in metrics.documentation()}
    for name, _ in samples(metrics):
        assert name in named or re.sub("_(bucket|sum|count)$", "", name) in named or name.startswith("process_"), name


def test_refused_expired_and_cancelled(metrics: Metrics) -> None:
    metrics.requests.count_rejected(1, **TARGET)
    metrics.requests.count_expired(2, **TARGET)
    metrics.requests.count_cancelled(1, **TARGET)
    assert value(metrics, "bireal_rejected_total", **TARGET) == 1
    assert value(metrics, "bireal_expired_total", **TARGET) == 2
    assert value(metrics, "bireal_cancelled_total", **TARGET) == 1


def test_images_problems_fallbacks_and_comparisons(metrics: Metrics) -> None:
    metrics.requests.count_image(ImageReport("JPEG", 4, 3, "RGB"))
    metrics.requests.count_image(ImageReport("PNG", 4, 3, "P", converted="palette looked up"))
    metrics.requests.count_problem("broken-image")
    metrics.requests.count_fallback(task="classify", model="m", version="1", requested="binary", ran="reference")
    metrics.requests.count_comparison("classify", ("m", "binary"), ("n", "full"), agree=True)
    assert value(metrics, "bireal_images_total", format="JPEG", converted="false") == 1
    assert value(metrics, "bireal_images_total", format="PNG", converted="true") == 1
    assert value(metrics, "bireal_problems_total", code="broken-image") == 1
    fallback = {"task": "classify", "model": "m", "version": "1", "requested": "binary", "ran": "reference"}
    assert value(metrics, "bireal_fallback_total", **fallback) == 1
    sides = {"model_a": "m", "variant_a": "binary", "model_b": "n", "variant_b": "full"}
    assert value(metrics, "bireal_comparisons_total", task="classify", agree="true", **sides) == 1


def test_http_labels_are_bounded(metrics: Metrics) -> None:
    metrics.requests.observe_http("POST", "/classify", 200, 0.01)
    for number in range(50):
        metrics.requests.observe_http(f"HACK{number}", None, 404, 0.001)
    assert value(metrics, "bireal_http_requests_total", method="POST", route="/classify", status="200") == 1
    assert value(metrics, "bireal_http_requests_total", method="other", route="unmatched", status="404") == 50
    assert value(metrics, "bireal_http_request_seconds_count", method="other", route="unmatched") == 50
    assert sum(name == "bireal_http_requests_total" for name, _ in samples(metrics)) == 2


def test_queue(metrics: Metrics) -> None:
    metrics.requests.queue_depth.set(3)
    metrics.requests.in_flight.inc()
    metrics.requests.observe_batches([4], **RUN)
    assert value(metrics, "bireal_queue_depth") == 3
    assert value(metrics, "bireal_in_flight") == 1
    assert value(metrics, "bireal_batch_size_bucket", le="2.0", **RUN) == 0
    assert value(metrics, "bireal_batch_size_bucket", le="4.0", **RUN) == 1


# --- models ----------------------------------------------------------------------------------------------------------


def test_card(metrics: Metrics) -> None:
    metrics.models.set_card(classify_card())
    model = {"task": "classify", "model": "bireal18-test", "version": "1"}
    assert value(metrics, "bireal_model_artefact_bytes", **model) == 4_000
    assert value(metrics, "bireal_model_parameters", **model, precision="binary") == 10_000
    assert value(metrics, "bireal_model_parameters", **model, precision="real") == 500
    weights = {
        (variant, precision): value(metrics, "bireal_model_weight_bytes", **model, variant=variant, precision=precision)
        for variant in ("binary", "reference")
        for precision in ("binary", "real")
    }
    assert weights == {
        ("binary", "binary"): 1_250,
        ("binary", "real"): 2_000,
        ("reference", "binary"): 0,
        ("reference", "real"): 42_000,
    }
    scored = {**model, "variant": "binary", "dataset": "test-dev"}
    assert value(metrics, "bireal_model_accuracy", **scored, metric="top1") == 0.4
    assert value(metrics, "bireal_model_accuracy", **scored, metric="top5") == 0.7
    assert value(metrics, "bireal_model_accuracy_images", **scored) == 200


def test_loaded_variant(metrics: Metrics) -> None:
    metrics.models.set_card(classify_card())
    metrics.models.set_loaded(
        ready=True, load_seconds=0.25, session_bytes=3_000_000, memory_bytes={"binary": 1_300, "real": 2_100}, **RUN
    )
    assert value(metrics, "bireal_model_ready", **RUN) == 1
    assert value(metrics, "bireal_model_load_seconds", **RUN) == 0.25
    assert value(metrics, "bireal_model_session_bytes", **TARGET) == 3_000_000
    assert value(metrics, "bireal_model_weight_bytes", **TARGET, precision="binary") == 1_300
    metrics.models.set_loaded(ready=False, **RUN)
    assert value(metrics, "bireal_model_ready", **RUN) == 0
    assert value(metrics, "bireal_model_load_seconds", **RUN) == 0.25


def test_removed_model_leaves_the_gauges_and_stays_in_the_counters(metrics: Metrics) -> None:
    for card in (classify_card(), full_card(), classify_card(version="2")):
        metrics.models.set_card(card)
    metrics.models.set_loaded(ready=True, load_seconds=1, session_bytes=1, **RUN)
    metrics.requests.count_request("ok", **RUN)
    metrics.remove_model("bireal18-test", "1")
    left = {
        (name, dict(labels)["model"], dict(labels)["version"])
        for name, labels in samples(metrics)
        if "model" in dict(labels)
    }
    assert not {
        name for name, model, version in left if (model, version) == ("bireal18-test", "1") and "_model_" in name
    }
    assert ("bireal_requests_total", "bireal18-test", "1") in left
    assert ("bireal_model_artefact_bytes", "bireal18-test", "2") in left
    assert ("bireal_model_artefact_bytes", "resnet18-test", "1") in left


# --- work ------------------------------------------------------------------------------------------------------------


def work(metrics: Metrics, run: RunLabels) -> tuple[float | None, ...]:
    names = ("binary_macs", "real_macs", "bops", "weight_bytes")
    return tuple(value(metrics, f"bireal_work_{name}_total", **run) for name in names)


def test_work_of_the_bit_packed_network(metrics: Metrics) -> None:
    metrics.models.work_of(classify_card(), "binary", "avx2").run(images=3)
    metrics.models.work_of(classify_card(), "binary", "avx2").run(images=1)
    assert work(metrics, RUN) == (4 * 6_400, 4 * 100, 4 * 12_800, 2 * 3_250)


def test_work_of_float_networks_is_all_real(metrics: Metrics) -> None:
    rounded = classify_card(weights={"real_bytes": 700})  # some 8-bit weights, which the reference has as float32
    metrics.models.work_of(rounded, "reference", "onnxruntime").run(images=1)
    reference = RunLabels(**{**TARGET, "variant": "reference"}, kernel="onnxruntime")  # type: ignore[typeddict-item]
    assert work(metrics, reference) == (0, 6_500, 64 * 6_500, 42_000)
    metrics.models.work_of(full_card(), "full", "onnxruntime").run(images=2)
    full = RunLabels(task="classify", model="resnet18-test", version="1", variant="full", kernel="onnxruntime")
    assert work(metrics, full) == (0, 2 * 6_500, 2 * 416_000, 42_000)


def test_workers_that_run_a_network_first_at_the_same_time_count_in_one_place(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A buffer's function is never called from two threads at once; those of two buffers might be."""
    found, buffered = [], metrics._registrar.buffered

    def overtaken(count):
        if not found:
            found.append(None)
            found[0] = metrics.runs_of(classify_card(), "binary", "avx2")
        return buffered(count)

    monkeypatch.setattr(metrics._registrar, "buffered", overtaken)
    found.append(metrics.runs_of(classify_card(), "binary", "avx2"))
    assert found[0] == found[1]


# --- process ---------------------------------------------------------------------------------------------------------


def test_memory_is_read_at_each_scrape(metrics: Metrics) -> None:
    before = value(metrics, "bireal_process_resident_memory_bytes")
    assert before is not None
    block = mmap.mmap(-1, 48 * 2**20)  # pages of its own: an allocator may have as much at hand after other tests
    block.write(b"x" * len(block))
    after = value(metrics, "bireal_process_resident_memory_bytes")
    peak = value(metrics, "bireal_process_peak_memory_bytes")
    assert after is not None
    assert peak is not None
    assert after - before > 24 * 2**20
    assert peak >= after
    block.close()


def test_build(metrics: Metrics) -> None:
    build = {"version": "0.1.0", "revision": "0abc", "python": "3.11", "onnxruntime": "1.22"}
    build |= {"kernel": "avx2", "kernels": "avx2,scalar"}
    metrics.process.set_build(**{**build, "kernel": "scalar"})
    metrics.process.set_build(**build)
    assert value(metrics, "bireal_build_info", **build) == 1
    assert sum(name == "bireal_build_info" for name, _ in samples(metrics)) == 1


def test_registries_do_not_share(metrics: Metrics) -> None:
    other = Metrics(CollectorRegistry())
    other.requests.queue_depth.set(9)
    assert value(metrics, "bireal_queue_depth") == 0


# --- documentation ---------------------------------------------------------------------------------------------------


def test_every_metric_is_documented_and_every_documented_one_exists(metrics: Metrics) -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert markdown_table() in text, "replace the table by what service.metrics.markdown_table() returns"
    documented = {doc.name for doc in metrics.documentation()}
    registered = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in metrics.registry.collect()
        if family.name.startswith("bireal_")
    }
    assert registered == documented


def test_queries_in_the_handbook_use_metrics_that_exist(metrics: Metrics) -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    names = {doc.name for doc in metrics.documentation()}
    names |= {
        f"{doc.name}_{part}"
        for doc in metrics.documentation()
        if doc.type == "histogram"
        for part in ("bucket", "sum", "count")
    }
    used = set(re.findall(r"\bbireal_[a-z0-9_]+\b", text)) - {"bireal_work_"}
    assert used <= names


def test_names_follow_prometheus_conventions(metrics: Metrics) -> None:
    for doc in metrics.documentation():
        assert doc.name.startswith("bireal_")
        assert doc.name.endswith("_total") == (doc.type == "counter")
        assert doc.description.endswith(".")
        assert not re.search(r"_(ms|milliseconds|kb|mb)\b", doc.name)
