"""The service's path from bytes to answer, without HTTP, for the offline commands.

It uses the same decoder, tasks, scheduler and backends as the service, so the printed figures are the service's.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from prometheus_client import CollectorRegistry

from service.card import Card, TaskName, VariantName
from service.cli.data import printable, read
from service.errors import EmptyBodyError, SettingsError
from service.imaging import ImageLimits
from service.metrics import Metrics
from service.pipeline import Answered, Job, Pipeline, RequestContext, Side, Telemetry, ThreadPool, Upload
from service.registry import Handle, Registry
from service.request_id import request_id_from
from service.scheduler import Deadline, Scheduler
from service.settings import Settings, export_kernel

In = TypeVar("In")
Out = TypeVar("Out")

_FOREVER_S = 1e6  # images of an offline run have no deadline
_CLOSE_S = 60.0  # far longer than a batch or an image takes, even where other work has the CPU


class Engine:
    """Models and everything that runs them; a context manager.

    Args:
        settings: The service's settings. Use `offline` to adapt them to many images without clients.
    """

    def __init__(self, settings: Settings) -> None:
        export_kernel(settings)
        self.settings = settings
        self._scanned = False
        self.registry = Registry(settings)
        telemetry = Telemetry(Metrics(CollectorRegistry()))
        self._scheduler = Scheduler(workers=settings.workers, queue_size=1024, max_batch=settings.max_batch)
        self._pool = ThreadPool(threads=settings.decode_threads, queue_size=1024)
        limits = ImageLimits(max_pixels=settings.max_pixels)
        self._pipeline = Pipeline(self._scheduler, self._pool, limits, telemetry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # After an interrupt, threads may still be inside a library. One that returns from it during the interpreter's
        # shutdown would abort the process.
        self._scheduler.close(_CLOSE_S)
        self._pool.close(_CLOSE_S)
        self.registry.close()

    def handles(self, task: TaskName, model: str | None, *variants: str | None) -> list[Handle]:
        """Loads only what is needed to run these variants of a model.

        Raises:
            ServiceError: See `Registry.resolve`.
        """
        return self.networks(task, [(model, variant) for variant in variants])

    def networks(self, task: TaskName, wanted: Sequence[tuple[str | None, str | None]]) -> list[Handle]:
        """Loads only what is needed to run these pairs of a model and a variant. Call it once.

        Raises:
            SettingsError: The model folder does not exist.
            ServiceError: See `Registry.resolve`.
        """
        self._scan()
        variants: dict[str, set[str]] = {}  # of each model
        for model, variant in wanted:
            name = (model or self.registry.default(task) or "").partition("@")[0]
            chosen = variants.setdefault(name, set())
            chosen.add(variant or self.settings.default_variant)
            if self.settings.fallback == "reference":
                chosen.add("reference")
        twins = {entry.card.full for entry in self.registry.entries() if "full" in variants.get(entry.card.name, set())}

        def select(card: Card, variant: VariantName) -> bool:
            if card.precision == "full":
                return card.name in variants or card.name in twins
            return variant in variants.get(card.name, set())

        self.registry.load(select)
        return [self.registry.resolve(task, model, variant) for model, variant in wanted]

    def task_of(self, model: str) -> TaskName | None:
        """The task of a model, NAME or NAME@VERSION, from its card; None if no model has this name.

        Raises:
            SettingsError: The model folder does not exist.
        """
        self._scan()
        name = model.partition("@")[0]
        return next((entry.card.task for entry in self.registry.entries() if entry.card.name == name), None)

    def _scan(self) -> None:
        check_model_dir(self.settings)
        if not self._scanned:
            self.registry.scan()
            self._scanned = True

    async def predict(self, path: Path, handle: Handle, options: Any) -> Answered:
        """Runs a network on the image in a file."""
        return await self._pipeline.predict(_upload(path), handle, _job(options))

    async def compare(
        self, path: Path, sides: dict[Side, Handle], options: Any
    ) -> tuple[dict[Side, Answered], list[Side]]:
        """Runs two networks on the image in a file."""
        return await self._pipeline.compare(_upload(path), sides, _job(options))


def check_model_dir(settings: Settings) -> None:
    """Checks that the model folder exists: the error should not be about a missing model.

    Raises:
        SettingsError: It does not exist, or is not a folder.
    """
    if not settings.model_dir.is_dir():
        raise SettingsError(
            f"The model folder {str(settings.model_dir)!r} does not exist or is not a folder.",
            remedy="Set BIREAL_MODEL_DIR or --model-dir to a folder that contains <name>/<version>/.",
        )


def offline(settings: Settings) -> Settings:
    """Settings for throughput over many images: as many single-threaded runs at a time as there are threads."""
    threads = settings.workers * settings.intra_op_threads
    return settings.model_copy(update={"workers": threads, "intra_op_threads": 1})


async def in_order(
    items: Iterable[In], call: Callable[[In], Awaitable[Out]], *, at_once: int
) -> AsyncIterator[tuple[In, Out]]:
    """Calls an async function for each item, `at_once` concurrently, and yields item and result in the items' order."""
    pending: list[tuple[In, asyncio.Future[Out]]] = []
    try:
        for item in items:
            pending.append((item, asyncio.ensure_future(call(item))))
            if len(pending) >= at_once:
                first, task = pending.pop(0)
                yield first, await task
        while pending:
            first, task = pending.pop(0)
            yield first, await task
    finally:
        for _, task in pending:
            task.cancel()


def describe(handle: Handle) -> dict[str, str]:
    """What ran, for a report."""
    labels = {
        "model": handle.card.name,
        "version": handle.card.version,
        "variant": handle.variant,
        "kernel": handle.kernel,
    }
    return labels | ({"fallback": handle.fallback} if handle.fallback else {})


def _upload(path: Path) -> Upload:
    data = read(path)
    if not data:
        raise EmptyBodyError(f"{printable(path)} is empty.", remedy="Name an image file.")
    return Upload(data, None, printable(path))


def _job(options: Any) -> Job:
    context = RequestContext(request_id_from(None))
    return Job(options, Deadline.after(_FOREVER_S), context, begun=context.started)
