"""Metrics of the parity monitor: a sampled share of `binary` answers, computed again by `reference`."""

from typing import Literal

from service.metrics.base import MODEL, Registrar, flag

ParityOutcome = Literal["ok", "dropped", "failed"]

#: Upper bounds of the difference of two outputs as a share of their range: float32 rounding is at the lower end, one
#: activation whose sign fell the other way in the middle, a different network at the upper.
DIFFERENCE_BUCKETS: tuple[float, ...] = (1e-7, 1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)


class ParityMetrics:
    """Whether `binary` still computes what `reference` does.

    Args:
        metrics: Where they are made.
    """

    def __init__(self, metrics: Registrar) -> None:
        self._images = metrics.counter(
            "bireal_parity_images_total",
            "Sampled images: run again (`ok`), `dropped` for want of room, or `failed`.",
            (*MODEL, "outcome"),
        )
        self._agreement = metrics.counter(
            "bireal_parity_agreement_total",
            "Images run again, by whether `reference` gave the same best class (depth: the same map within 25 %).",
            (*MODEL, "agree"),
        )
        self._difference = metrics.histogram(
            "bireal_parity_difference",
            "Largest difference of a logit (depth: of a pixel) as a share of the range of the reference's output.",
            MODEL,
            DIFFERENCE_BUCKETS,
        )
        self._sign_agreement = metrics.gauge(
            "bireal_parity_layer_sign_agreement",
            "Share of a layer's integer sums whose sign is that of the reference, in the last check of that layer.",
            (*MODEL, "layer"),
        )
        self._layer_checks = metrics.counter(
            "bireal_parity_layer_checks_total", "Images on which a layer was checked alone.", (*MODEL, "layer")
        )
        self._layer_mismatches = metrics.counter(
            "bireal_parity_layer_mismatches_total",
            "Checks of a layer alone, fed the same values, whose integers were not equal; must stay 0.",
            (*MODEL, "layer"),
        )
        self._probes = metrics.counter(
            "bireal_parity_probes_total",
            "Runs of the fixed test images, by whether all outputs were those that the intact file gives, bit for bit.",
            (*MODEL, "same"),
        )
        self._ok = metrics.gauge(
            "bireal_parity_ok", "1 while no check of the model found a corruption; 0 from the first on.", MODEL
        )

    def count_image(self, outcome: ParityOutcome, *, task: str, model: str, version: str) -> None:
        """Counts a sampled image."""
        self._images.labels(task=task, model=model, version=version, outcome=outcome).inc()

    def observe(self, difference: float, *, agree: bool, task: str, model: str, version: str) -> None:
        """Records how far an answer is from the reference's."""
        labels = {"task": task, "model": model, "version": version}
        self._agreement.labels(**labels, agree=flag(agree)).inc()
        self._difference.labels(**labels).observe(difference)

    def set_sign_agreement(self, layer: str, share: float, *, task: str, model: str, version: str) -> None:
        """Shows the share of a layer's sums with the reference's sign, 0..1."""
        self._sign_agreement.labels(task=task, model=model, version=version, layer=layer).set(share)

    def count_layer(self, layer: str, *, exact: bool, task: str, model: str, version: str) -> None:
        """Counts a check of a layer alone."""
        labels = {"task": task, "model": model, "version": version, "layer": layer}
        self._layer_checks.labels(**labels).inc()
        self._layer_mismatches.labels(**labels).inc(0 if exact else 1)

    def count_probe(self, *, same: bool, task: str, model: str, version: str) -> None:
        """Counts a run of the fixed test images."""
        self._probes.labels(task=task, model=model, version=version, same=flag(same)).inc()

    def set_ok(self, ok: bool, *, task: str, model: str, version: str) -> None:
        """Shows whether a model is intact as far as was checked."""
        self._ok.labels(task=task, model=model, version=version).set(ok)

    def remove(self, model: str, version: str) -> None:
        """Takes a model that is no longer served out of the gauges."""
        for gauge in (self._sign_agreement, self._ok):
            gauge.remove_by_labels({"model": model, "version": version})
