"""Metrics of models: readiness, weights, accuracy, and the arithmetic of their runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack

from prometheus_client import Counter

from service.card import Card, VariantName
from service.metrics.base import MODEL, RUN, TARGET, Children, Registrar, RunLabels


@dataclass(frozen=True, slots=True)
class WorkMeter:
    """Counts the arithmetic and the weight traffic of one network's runs.

    Attributes:
        each_image: Counters with their increment per image.
        touched: Counter of the weight bytes that runs read.
        weight_bytes: Weight bytes that one run reads, regardless of its number of images.
    """

    each_image: tuple[tuple[Counter, float], ...]
    touched: Counter
    weight_bytes: int

    def run(self, images: int, runs: int = 1) -> None:
        """Counts `runs` runs with `images` images in total."""
        for counter, amount in self.each_image:
            counter.inc(amount * images)
        self.touched.inc(self.weight_bytes * runs)


class ModelMetrics:
    """Metrics of the served models.

    Args:
        metrics: Registrar for the metrics.
    """

    def __init__(self, metrics: Registrar) -> None:
        self.ready = metrics.gauge("bireal_ready", "1 if the service answers requests, else 0.")
        self._model_ready = metrics.gauge(
            "bireal_model_ready", "1 if the variant is loaded and warmed up, 0 if it cannot run.", RUN
        )
        self._load_seconds = metrics.gauge("bireal_model_load_seconds", "Time to load and warm up the variant.", RUN)
        self._weight_bytes = metrics.gauge(
            "bireal_model_weight_bytes",
            "Size of the weights in memory, counted once; precision is `binary` (1 bit each) or `real`.",
            (*TARGET, "precision"),
        )
        self._parameters = metrics.gauge(
            "bireal_model_parameters",
            "Number of parameters; precision is `binary` or `real`.",
            (*MODEL, "precision"),
        )
        self._artefact_bytes = metrics.gauge("bireal_model_artefact_bytes", "Size of the model's file.", MODEL)
        self._session_bytes = metrics.gauge(
            "bireal_model_session_bytes",
            "Growth of the process's memory while the variant was loaded; less if it reused memory that others left.",
            TARGET,
        )
        self._accuracy = metrics.gauge(
            "bireal_model_accuracy",
            "Score on a data set, measured when the model was exported (from its card); in fractions 0..1 or metres.",
            (*TARGET, "dataset", "metric"),
        )
        self._accuracy_images = metrics.gauge(
            "bireal_model_accuracy_images", "Images behind `bireal_model_accuracy`.", (*TARGET, "dataset")
        )
        self._binary_macs = metrics.counter("bireal_work_binary_macs_total", "1-bit multiply-accumulates done.", RUN)
        self._real_macs = metrics.counter("bireal_work_real_macs_total", "Real multiply-accumulates done.", RUN)
        self._bops = metrics.counter(
            "bireal_work_bops_total", "Binary operations done; a real multiply-accumulate counts as 64.", RUN
        )
        self._touched = metrics.counter(
            "bireal_work_weight_bytes_total",
            "Weight bytes read by runs, counted once per run; a batch that runs in parts reads more.",
            RUN,
        )
        self._binary_macs_of, self._real_macs_of = Children(self._binary_macs), Children(self._real_macs)
        self._bops_of, self._touched_of = Children(self._bops), Children(self._touched)

    def set_card(self, card: Card) -> None:
        """Sets a model's weights, file size and accuracies from its card."""
        model = {"task": card.task, "model": card.name, "version": card.version}
        self._artefact_bytes.labels(**model).set(card.weights.artefact_bytes)
        self._parameters.labels(**model, precision="binary").set(card.weights.binary_params)
        self._parameters.labels(**model, precision="real").set(card.weights.real_params)
        for variant in card.variants:
            for precision, size in card.weight_bytes(variant).items():
                self._weight_bytes.labels(**model, variant=variant, precision=precision).set(size)
        for metric in card.metrics:
            scored = {**model, "variant": metric.variant, "dataset": metric.dataset}
            self._accuracy_images.labels(**scored).set(metric.n)
            for name, value in metric.values.items():
                self._accuracy.labels(**scored, metric=name).set(value)

    def set_loaded(
        self,
        *,
        ready: bool,
        load_seconds: float | None = None,
        session_bytes: int | None = None,
        memory_bytes: Mapping[str, int] | None = None,
        **run: Unpack[RunLabels],
    ) -> None:
        """Sets the state of one variant of a model.

        Args:
            ready: Whether it is warmed up and answers.
            load_seconds: Time to load it and warm it up.
            session_bytes: Growth of the process's memory while it was loaded.
            memory_bytes: Weight bytes in memory by precision (`binary`, `real`) as counted by the backend; they
                replace those computed from the card.
            run: The variant's labels.
        """
        target = {name: run[name] for name in TARGET}  # type: ignore[literal-required]
        self._model_ready.labels(**run).set(ready)
        if load_seconds is not None:
            self._load_seconds.labels(**run).set(load_seconds)
        if session_bytes is not None:
            self._session_bytes.labels(**target).set(session_bytes)
        for precision, size in (memory_bytes or {}).items():
            self._weight_bytes.labels(**target, precision=precision).set(size)

    def remove(self, model: str, version: str) -> None:
        """Removes a model that is no longer served from the gauges; its counters stay, as counters must."""
        for gauge in (
            self._model_ready,
            self._load_seconds,
            self._weight_bytes,
            self._parameters,
            self._artefact_bytes,
            self._session_bytes,
            self._accuracy,
            self._accuracy_images,
        ):
            gauge.remove_by_labels({"model": model, "version": version})

    def work_of(self, card: Card, variant: VariantName, kernel: str) -> "WorkMeter":
        """Returns the meter of one network's runs, whose labels are looked up only once.

        Args:
            card: The model's card.
            variant: The variant that runs. `reference` computes the 1-bit layers in float32, so their
                multiply-accumulates count as real ones.
            kernel: The kernel that runs it.
        """
        run = RunLabels(task=card.task, model=card.name, version=card.version, variant=variant, kernel=kernel)
        binary, real = card.work.binary_macs, card.work.real_macs
        if variant != "binary":
            binary, real = 0, real + binary
        return WorkMeter(
            each_image=(
                (self._binary_macs_of(**run), binary),
                (self._real_macs_of(**run), real),
                (self._bops_of(**run), card.work.bops if variant == "binary" else 64 * real),
            ),
            touched=self._touched_of(**run),
            weight_bytes=sum(card.weight_bytes(variant).values()),
        )
