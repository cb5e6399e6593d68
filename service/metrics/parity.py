"""Metrics of the parity monitor, which runs a sample of the `binary` answers again on `reference`."""

from typing import Literal

from service.metrics.base import MODEL, Registrar, flag

ParityOutcome = Literal["ok", "dropped", "failed"]

#: Upper bounds of the difference of two outputs as a share of their range. Float32 rounding is at the lower end, an
#: activation with a flipped sign in the middle, a different network at the upper end.
DIFFERENCE_BUCKETS: tuple[float, ...] = (1e-7, 1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)


class ParityMetrics:
    """Metrics of whether `binary` still computes the same as `reference`.

    Args:
        metrics: Registrar for the metrics.
    """

    def __init__(self, metrics: Registrar) -> None:
        self._images = metrics.counter(
            "bireal_parity_images_total",
            "Sampled images: `ok` (run again and compared), `dropped` (no spare capacity, or the model was unloaded) "
            "or `failed`.",
            (*MODEL, "outcome"),
        )
        self._agreement = metrics.counter(
            "bireal_parity_agreement_total",
            "Images run again, by whether `reference` agreed (for depth: 90 % of the pixels within a factor of 1.25).",
            (*MODEL, "agree"),
        )
        self._difference = metrics.histogram(
            "bireal_parity_difference",
            "Largest difference of a logit (or of a pixel's depth) as a share of the range of the reference's output; "
            "1000 also stands for more, and for values that are not finite.",
            MODEL,
            DIFFERENCE_BUCKETS,
        )
        self._sign_agreement = metrics.gauge(
            "bireal_parity_layer_sign_agreement",
            "Share of the layer's integer sums that have the same sign as the reference's, in the last check.",
            (*MODEL, "layer"),
        )
        self._layer_checks = metrics.counter(
            "bireal_parity_layer_checks_total", "Checks of a single layer on one image.", (*MODEL, "layer")
        )
        self._layer_mismatches = metrics.counter(
            "bireal_parity_layer_mismatches_total",
            "Checks of a single layer that found a difference on the same input values; must stay 0.",
            (*MODEL, "layer"),
        )
        self._probes = metrics.counter(
            "bireal_parity_probes_total",
            "Runs of the fixed test images, by whether all outputs were bit-identical to those of the intact file.",
            (*MODEL, "same"),
        )
        self._ok = metrics.gauge(
            "bireal_parity_ok", "1 while no check of the model has found a corruption; 0 from the first one on.", MODEL
        )

    def count_image(self, outcome: ParityOutcome, *, task: str, model: str, version: str) -> None:
        """Counts a sampled image."""
        self._images.labels(task=task, model=model, version=version, outcome=outcome).inc()

    def observe(self, difference: float, *, agree: bool, task: str, model: str, version: str) -> None:
        """Records how far an output is from the reference's."""
        labels = {"task": task, "model": model, "version": version}
        self._agreement.labels(**labels, agree=flag(agree)).inc()
        self._difference.labels(**labels).observe(difference)

    def set_sign_agreement(self, layer: str, share: float, *, task: str, model: str, version: str) -> None:
        """Sets the share of a layer's sums with the reference's sign, 0..1."""
        self._sign_agreement.labels(task=task, model=model, version=version, layer=layer).set(share)

    def count_layer(self, layer: str, *, exact: bool, task: str, model: str, version: str) -> None:
        """Counts a check of a single layer."""
        labels = {"task": task, "model": model, "version": version, "layer": layer}
        self._layer_checks.labels(**labels).inc()
        self._layer_mismatches.labels(**labels).inc(0 if exact else 1)

    def count_probe(self, *, same: bool, task: str, model: str, version: str) -> None:
        """Counts a run of the fixed test images."""
        self._probes.labels(task=task, model=model, version=version, same=flag(same)).inc()

    def set_ok(self, ok: bool, *, task: str, model: str, version: str) -> None:
        """Sets whether the checks so far found the model intact."""
        self._ok.labels(task=task, model=model, version=version).set(ok)

    def remove(self, model: str, version: str) -> None:
        """Removes a model that is no longer served from the gauges."""
        for gauge in (self._sign_agreement, self._ok):
            gauge.remove_by_labels({"model": model, "version": version})
