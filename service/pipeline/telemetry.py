"""The adapter from the service's events to metrics, so that no other part depends on Prometheus."""

import asyncio
import platform
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

import onnxruntime

from service import xnor_op
from service.card import Card, VariantName
from service.errors import DeadlineExceededError, OpUnavailableError, OverloadedError, ServiceError
from service.imaging import ImageReport
from service.metrics import AnswerMeter, Metrics, RequestOutcome, RunLabels, Stage, TargetLabels
from service.registry import Entry, Handle
from service.scheduler import Runnable


def run_labels(handle: Handle) -> RunLabels:
    """The metric labels of a network that ran."""
    card = handle.card
    return RunLabels(
        task=card.task, model=card.name, version=card.version, variant=handle.variant, kernel=handle.kernel
    )


def target_labels(handle: Handle) -> TargetLabels:
    """The metric labels of a network that was supposed to run."""
    card = handle.card
    return TargetLabels(task=card.task, model=card.name, version=card.version, variant=handle.variant)


@dataclass(slots=True)
class _Ran:
    """The labels of a loaded network, and its meters, which are created at their first use."""

    card: Card
    variant: VariantName
    run: RunLabels
    target: TargetLabels
    answers: AnswerMeter | None = None
    runs: Callable[[int], None] | None = None


class Failures:
    """See `Telemetry.failures` and `losses`. A class: a generator would cost more, and every request enters one.

    Args:
        telemetry: Where to count.
        handle: The network.
        images: How many images fail if the block raises.
        answered: Whether they have been counted as answered, and so have their outcome.
    """

    __slots__ = ("_answered", "_handle", "_images", "_telemetry")

    def __init__(self, telemetry: "Telemetry", handle: Handle, images: int, *, answered: bool = False) -> None:
        self._telemetry, self._handle, self._images, self._answered = telemetry, handle, images, answered

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and (outcome := _outcome_of(error)) is not None:
            if self._answered:
                self._telemetry.lost(outcome, self._handle, self._images)
            else:
                self._telemetry.count(outcome, self._handle, self._images)


def _outcome_of(error: BaseException) -> RequestOutcome | None:
    """The outcome of an image that failed with an error; None if the whole process is ending."""
    if isinstance(error, OverloadedError):
        return "rejected"
    if isinstance(error, DeadlineExceededError):
        return "expired"
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    if isinstance(error, Exception):
        theirs = isinstance(error, ServiceError) and error.status < HTTPStatus.INTERNAL_SERVER_ERROR
        return "client_error" if theirs else "server_error"
    return None


class Telemetry:
    """Records loaded models, batches, drops, answers and failures.

    Args:
        metrics: The metrics to record them in.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # Weak keys, so that an unloaded network does not stay in memory.
        self._ran: weakref.WeakKeyDictionary[Runnable, _Ran] = weakref.WeakKeyDictionary()
        self._shown: set[tuple[str, str]] = set()

    def variant_loaded(self, card: Card, variant: VariantName, handle: Handle | None, seconds: float) -> None:
        """See `service.registry.OnLoaded`."""
        if (card.name, card.version) not in self._shown:  # only once, or it would overwrite the backends' figures
            self._shown.add((card.name, card.version))
            self._metrics.models.set_card(card)
            if card.precision == "binary":
                self._metrics.requests.begin_fallback(task=card.task, model=card.name, version=card.version)
        if handle is None:
            labels = RunLabels(task=card.task, model=card.name, version=card.version, variant=variant, kernel="none")
            self._metrics.models.set_loaded(ready=False, **labels)
            return
        self._ran[handle.model] = _Ran(card, handle.variant, run_labels(handle), target_labels(handle))
        self._metrics.requests.begin(**run_labels(handle))
        described = handle.model.describe()
        self._metrics.models.set_loaded(
            ready=True,
            load_seconds=seconds,
            session_bytes=described["session_bytes"],
            memory_bytes={"binary": described["binary_weight_bytes"], "real": described["real_weight_bytes"]},
            **run_labels(handle),
        )

    def batch_run(self, target: Runnable, size: int) -> None:
        """Counts a run; see `service.scheduler.OnRun`."""
        if ran := self._ran.get(target):
            if ran.runs is None:
                ran.runs = self._metrics.runs_of(ran.card, ran.variant, ran.run["kernel"])
            ran.runs(size)

    def version_retired(self, entry: Entry) -> None:
        """Removes the gauges of a version that is no longer served; its counters stay, as counters must."""
        self._shown.discard((entry.card.name, entry.card.version))
        self._metrics.remove_model(entry.card.name, entry.card.version)

    def failures(self, handle: Handle, images: int) -> "Failures":
        """A context manager that counts the images of a request as failed if its block raises."""
        return Failures(self, handle, images)

    def losses(self, handle: Handle, images: int) -> "Failures":
        """Like `failures`, for images that ran and were counted as answered, whose request is not."""
        return Failures(self, handle, images, answered=True)

    def count(self, outcome: RequestOutcome, handle: Handle, images: int = 1) -> None:
        """Counts images by the outcome of their request."""
        self._metrics.requests.count_request(outcome, images, **run_labels(handle))
        self.lost(outcome, handle, images)

    def lost(self, outcome: RequestOutcome, handle: Handle, images: int) -> None:
        """Counts images of a request that is refused, late or left by its client, whatever it waited for."""
        if outcome == "rejected":
            self._metrics.requests.count_rejected(images, **target_labels(handle))
        elif outcome == "expired":
            self._metrics.requests.count_expired(images, **target_labels(handle))
        elif outcome == "cancelled":
            self._metrics.requests.count_cancelled(images, **target_labels(handle))

    def decoded(self, report: ImageReport) -> None:
        """Records an upload that was decoded, once, however many networks run on it. May be called in any thread."""
        self._metrics.requests.count_image(report)

    def answered(self, handle: Handle, stages: dict[Stage, float]) -> None:
        """Records an answered image: its stages, and a fallback if there was one."""
        ran = self._ran.get(handle.model)
        if ran is None:  # loaded before this observer was attached, or unloaded in the meantime
            self._metrics.requests.answered_by(**run_labels(handle)).answered(stages)
        else:
            if ran.answers is None:
                ran.answers = self._metrics.requests.answered_by(**ran.run)
            ran.answers.answered(stages)
        if handle.fallback is not None:
            card = handle.card
            self._metrics.requests.count_fallback(
                task=card.task, model=card.name, version=card.version, requested="binary", ran=handle.variant
            )

    def show_build(self, version: str, revision: str) -> None:
        """Sets the build metric: versions and kernels of this process."""
        kernel, kernels = "none", ""
        with suppress(OpUnavailableError):  # an unusable kernel setting still leaves the list of usable ones
            kernels = ",".join(xnor_op.usable_kernels())
            kernel = xnor_op.kernel_name()
        self._metrics.process.set_build(
            version=version,
            revision=revision,
            python=platform.python_version(),
            onnxruntime=onnxruntime.__version__,
            kernel=kernel,
            kernels=kernels,
        )
