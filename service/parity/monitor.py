"""The parity monitor, which checks a sample of the `binary` answers when the CPU is idle.

It is off by default and then costs one comparison per request and no memory. If on, it does three checks in the
background:

* It runs a sampled image on `reference` and compares the outputs.
* On some of these images, it compares every layer with stock operators in the audit graphs. These are loaded for the
  first check and kept as long as the network.
* From time to time, it runs fixed images on the serving network, whose outputs must always be bit-identical.

The last two checks are exact, so any deviation is an error: `bireal_parity_ok` becomes 0, and the log names the cause.
"""

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

from service.backends.base import LoadedModel
from service.background import Background
from service.card import Card
from service.errors import ServiceError
from service.metrics import ParityMetrics
from service.parity.checks import LayerCheck, LayerFinding, Probe, compare_outputs
from service.registry import Handle, Registry
from service.scheduler import Image, Outcome, Scheduler

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ParitySettings:
    """How much the monitor checks.

    Attributes:
        sample: Share of the `binary` answers that are computed again; 0 turns the monitor off.
        layer_sample: Share of the sampled answers on which every layer is checked.
        probe_s: Minimum seconds between two runs of the fixed images, and between two checks of a model's layers. Both
            are only done along with a sampled answer.
        intra_op_threads: Number of threads per run of the serving networks.
    """

    sample: float
    layer_sample: float
    probe_s: float
    intra_op_threads: int


@dataclass(slots=True)
class _Watched:
    """State of the checks of one loaded network."""

    ok: bool = True
    probe: Probe | None = None
    probe_at: float = float("-inf")
    layers: LayerCheck | None = None
    layers_at: float = float("-inf")


class ParityMonitor:
    """Checks a sample of the `binary` answers; see the module's docstring.

    Args:
        settings: How much to check.
        registry: Resolves the reference of a model.
        scheduler: Runs the networks.
        background: Runs the checks when there is room.
        metrics: Receives the results.
    """

    def __init__(
        self,
        settings: ParitySettings,
        *,
        registry: Registry,
        scheduler: Scheduler,
        background: Background,
        metrics: ParityMetrics,
    ) -> None:
        self._settings = settings
        self._registry, self._scheduler = registry, scheduler
        self._background, self._metrics = background, metrics
        self._watched: WeakKeyDictionary[LoadedModel, _Watched] = WeakKeyDictionary()  # reset by a reload

    def __call__(self, handle: Handle, image: Image, outcome: Outcome) -> None:
        """Called in the event loop after every run of an image; returns quickly."""
        if handle.variant != "binary" or random.random() >= self._settings.sample:  # noqa: S311  not a secret
            return
        labels, counted = _labels(handle.card), False

        def count(result: Literal["ok", "failed", "dropped"]) -> None:
            nonlocal counted
            if not counted:  # it may be dropped in the middle of the checks of its network
                counted = True
                self._metrics.count_image(result, **labels)

        async def work() -> None:
            if not self._registry.serves(handle):
                count("dropped")
                return
            try:
                watched = await self._compare(handle, image, outcome)
            except ServiceError as error:
                count("failed")
                log.warning("parity of %s could not be checked: %s", handle.card.name, error)
                return
            try:
                await self._exact_checks(handle, watched, image)
            finally:
                count("ok")  # it was run again, however the checks of the network end

        self._background.offer(work, lambda: count("dropped"))

    async def _compare(self, handle: Handle, image: Image, outcome: Outcome) -> _Watched:
        card, labels = handle.card, _labels(handle.card)
        watched = self._watched.get(handle.model)
        if watched is None:
            watched = self._watched[handle.model] = _Watched()
            self._metrics.set_ok(True, **labels)
        reference = self._registry.resolve(card.task, f"{card.name}@{card.version}", "reference")
        again = await self._scheduler.submit(reference.model, image)
        parity = compare_outputs(card.task, outcome.output, again.output)
        self._metrics.observe(parity.difference, agree=parity.agree, **labels)
        return watched

    async def _exact_checks(self, handle: Handle, watched: _Watched, image: Image) -> None:
        """Runs the fixed images and checks the layers where it is time for it.

        The interval begins before a check, so that one that fails is not repeated sooner: a file that was damaged on
        disk would be read again for every sampled answer.
        """
        name, interval = handle.card.name, self._settings.probe_s
        if time.monotonic() - watched.probe_at >= interval:
            watched.probe_at = time.monotonic()
            try:
                await self._probe(handle, watched)
            except ServiceError as error:
                log.warning("the fixed images could not be run on %s: %s", name, error)
        sampled = random.random() < self._settings.layer_sample  # noqa: S311  not a secret
        if sampled and time.monotonic() - watched.layers_at >= interval:
            watched.layers_at = time.monotonic()
            try:
                await self._layers(handle, watched, image)
            except ServiceError as error:
                log.warning("the layers of %s could not be checked: %s", name, error)

    async def _probe(self, handle: Handle, watched: _Watched) -> None:
        probe = watched.probe
        if probe is None:
            threads = self._settings.intra_op_threads
            probe = watched.probe = await asyncio.to_thread(lambda: Probe(handle.card, intra_op_threads=threads))
        outcomes = [await self._scheduler.submit(handle.model, image) for image in probe.images]
        same = probe.same([outcome.output for outcome in outcomes])
        self._metrics.count_probe(same=same, **_labels(handle.card))
        if not same:
            self._report(handle, watched, "the network in memory and its file give different outputs for a test image")

    async def _layers(self, handle: Handle, watched: _Watched, image: Image) -> None:
        findings = await asyncio.to_thread(_check_layers, handle.card, watched, image)
        labels = _labels(handle.card)
        for finding in findings:
            self._metrics.count_layer(finding.layer, exact=finding.exact, **labels)
            if finding.sign_agreement is not None and self._registry.serves(handle):
                self._metrics.set_sign_agreement(finding.layer, finding.sign_agreement, **labels)
        wrong = [finding.layer for finding in findings if not finding.exact]
        if wrong:
            self._report(
                handle, watched, f"these layers differ from stock operators on the same inputs: {', '.join(wrong)}"
            )

    def _report(self, handle: Handle, watched: _Watched, what: str) -> None:
        """Reports a corruption, and logs it once for each loaded network.

        The gauge of a network that was unloaded during the check has been removed, or is that of its successor.
        """
        if self._registry.serves(handle):
            self._metrics.set_ok(False, **_labels(handle.card))
        if watched.ok:
            watched.ok = False
            log.error(
                "parity of %s@%s is broken: %s. Reload the model; if this recurs, suspect the memory or the kernel.",
                handle.card.name,
                handle.card.version,
                what,
            )


def _check_layers(card: Card, watched: _Watched, image: Image) -> list[LayerFinding]:
    if watched.layers is None:
        watched.layers = LayerCheck(card)
    return watched.layers.run(image)


def _labels(card: Card) -> dict[str, str]:
    return {"task": card.task, "model": card.name, "version": card.version}
