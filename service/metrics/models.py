"""Metrics of models: whether they are warm, what they weigh, how good they are, and the arithmetic that they did."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack

from prometheus_client import Counter

from service.card import Card, VariantName
from service.metrics.base import MODEL, RUN, TARGET, Children, Registrar, RunLabels


@dataclass(frozen=True, slots=True)
class WorkMeter:
    """Counts the arithmetic and the weight traffic of the runs of one network.

    Attributes:
        each_image: Counters, and by how much an image makes each of them grow.
        touched: Counts the bytes of weights that runs read.
        weight_bytes: What a run reads, however many images it has.
    """

    each_image: tuple[tuple[Counter, float], ...]
    touched: Counter
    weight_bytes: int

    def run(self, images: int, runs: int = 1) -> None:
        """Counts a run, or several and the images of all of them."""
        for counter, amount in self.each_image:
            counter.inc(amount * images)
        self.touched.inc(self.weight_bytes * runs)


class ModelMetrics:
    """What is served and what it does.

    Args:
        metrics: Where they are made.
    """

    def __init__(self, metrics: Registrar) -> None:
        self._ready = metrics.gauge("bireal_ready", "1 when the service answers, 0 while it starts, drains or cannot.")
        self._model_ready = metrics.gauge(
            "bireal_model_ready", "1 when the variant is warm, 0 when it cannot run.", RUN
        )
        self._load_seconds = metrics.gauge("bireal_model_load_seconds", "Time to load and warm the variant.", RUN)
        self._weight_bytes = metrics.gauge(
            "bireal_model_weight_bytes",
            "Weights in memory, one copy as the runtime holds it; precision is `binary` (1 bit each) or `real`.",
            (*TARGET, "precision"),
        )
        self._parameters = metrics.gauge(
            "bireal_model_parameters", "Number of parameters; precision as above.", (*MODEL, "precision")
        )
        self._artefact_bytes = metrics.gauge("bireal_model_artefact_bytes", "Size of the model's file.", MODEL)
        self._session_bytes = metrics.gauge(
            "bireal_model_session_bytes", "Growth of the process's memory when the variant was loaded.", TARGET
        )
        self._accuracy = metrics.gauge(
            "bireal_model_accuracy",
            "Score on a named data set, measured when the model was exported (from its card); fractions 0..1, metres.",
            (*TARGET, "dataset", "metric"),
        )
        self._accuracy_images = metrics.gauge(
            "bireal_model_accuracy_images", "Images on which that score rests.", (*TARGET, "dataset")
        )
        self._binary_macs = metrics.counter("bireal_work_binary_macs_total", "1-bit multiply-accumulates done.", RUN)
        self._real_macs = metrics.counter("bireal_work_real_macs_total", "Real multiply-accumulates done.", RUN)
        self._bops = metrics.counter(
            "bireal_work_bops_total", "Binary operations done: a real multiply-accumulate counts 64.", RUN
        )
        self._touched = metrics.counter(
            "bireal_work_weight_bytes_total",
            "Weight bytes read by runs, counted once a run; a batch that runs in parts reads more.",
            RUN,
        )
        self._binary_macs_of, self._real_macs_of = Children(self._binary_macs), Children(self._real_macs)
        self._bops_of, self._touched_of = Children(self._bops), Children(self._touched)

    def set_ready(self, ready: bool) -> None:
        """Shows whether the service answers."""
        self._ready.set(ready)

    def set_card(self, card: Card) -> None:
        """Shows a model's weights, file size and accuracies."""
        model = {"task": card.task, "model": card.name, "version": card.version}
        self._artefact_bytes.labels(**model).set(card.weights.artefact_bytes)
        self._parameters.labels(**model, precision="binary").set(card.weights.binary_params)
        self._parameters.labels(**model, precision="real").set(card.weights.real_params)
        for variant in card.variants:
            for precision, size in weight_bytes(card, variant).items():
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
        """Shows the state of one variant of a model.

        Args:
            ready: Whether it is warm and answers.
            load_seconds: Time to load and warm it.
            session_bytes: Growth of the process's memory by loading it.
            memory_bytes: Weight bytes in memory by precision (`binary`, `real`) as the backend counted them; they
                replace those computed from the card.
            run: Its labels.
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
        """Takes a model that is no longer served out of the gauges; its counters stay, as counters must."""
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
        """What counts the arithmetic and the weight traffic of one network's runs: its labels are looked up once.

        Args:
            card: The card of the model that runs.
            variant: How it runs. `reference` does the 1-bit layers' multiply-accumulates in float32, so they count as
                real ones: what is counted is what was done.
            kernel: What runs it.
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
            weight_bytes=sum(weight_bytes(card, variant).values()),
        )


def weight_bytes(card: Card, variant: VariantName) -> dict[str, int]:
    """Weight bytes in memory by precision, from a card: `reference` holds each 1-bit weight as a float32."""
    if variant == "reference":
        return {"binary": 0, "real": card.weights.real_bytes + 4 * card.weights.binary_params}
    return {"binary": card.weights.binary_bytes, "real": card.weights.real_bytes}
