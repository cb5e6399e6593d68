"""From a card to networks that run: verify the file, load each variant, warm it up; keep why what cannot run."""

import logging
import time
from collections.abc import Callable
from typing import Protocol

from service.backends.base import Backend
from service.card import Card, VariantName
from service.errors import ModelBrokenError, ServiceError
from service.registry.entries import Entry, Handle, Loaded
from service.settings import Settings

log = logging.getLogger(__name__)


class OnLoaded(Protocol):
    """Told of each variant that was tried."""

    def __call__(self, card: Card, variant: VariantName, handle: Handle | None, seconds: float) -> None:
        """A variant was loaded and warmed up in so many seconds; `handle` is None when it cannot run."""


class Loader:
    """Brings up models.

    Args:
        settings: The threads of a run.
        find_backend: What loads a variant.
    """

    def __init__(self, settings: Settings, find_backend: Callable[[VariantName], Backend]) -> None:
        self._settings, self._find_backend = settings, find_backend

    def fill(
        self,
        entry: Entry,
        wanted: list[VariantName],
        *,
        told: OnLoaded | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Loads variants of a model version into its entry; never raises for the model. Blocks for seconds.

        Args:
            entry: Of the version.
            wanted: The variants.
            told: Of each.
            stop: Asked before each whether to go on.
        """
        card = entry.card
        try:
            card.verify_file()
        except ServiceError as error:
            entry.variants = {variant: Loaded(error=error) for variant in wanted}
            log.error("model %s in %s cannot be served: %s", entry.label, card.directory, error)  # noqa: TRY400
            if told is not None:  # or no gauge, and so no alert, would say that they do not run
                for variant in wanted:
                    told(card, variant, None, 0.0)
            return
        for variant in wanted:
            if stop():
                return
            begun = time.perf_counter()
            loaded = self._try_variant(entry, variant)
            entry.variants[variant] = loaded
            entry.seconds[variant] = time.perf_counter() - begun
            if told is not None:
                told(card, variant, loaded.handle, entry.seconds[variant])

    def _try_variant(self, entry: Entry, variant: VariantName) -> Loaded:
        try:
            handle = self._load_variant(entry.card, variant)
        except ServiceError as error:
            log.error("%s of %s in %s cannot run: %s", variant, entry.label, entry.card.directory, error)  # noqa: TRY400
            return Loaded(error=error)
        except Exception as error:  # whatever a runtime raises about one model, the others are served
            log.exception("%s of %s in %s cannot run", variant, entry.label, entry.card.directory)
            reason = f"{variant} does not load: {type(error).__name__}, described in the service's log."
            return Loaded(error=ModelBrokenError(entry.card.name, reason))
        log.info("%s of model %s is ready (%s)", variant, entry.label, handle.kernel)
        return Loaded(handle)

    def _load_variant(self, card: Card, variant: VariantName) -> Handle:
        backend = self._find_backend(variant)
        model = backend.load(card, variant, intra_op_threads=self._settings.intra_op_threads)
        model.warm_up()
        return Handle(card, variant, model, model.describe()["kernel"])
