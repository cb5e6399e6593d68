"""Turns a card into running networks: verifies the file, loads and warms up each variant, and keeps errors."""

import logging
import time
from collections.abc import Callable
from typing import Protocol

from service.backends.base import Backend
from service.card import Card, VariantName
from service.errors import ModelBrokenError, OpUnavailableError, ServiceError, kept
from service.registry.entries import Entry, Handle, Loaded
from service.settings import Settings

log = logging.getLogger(__name__)

_SEE_LOG = "see the service's log."


class OnLoaded(Protocol):
    """Callback for each variant that was tried."""

    def __call__(self, card: Card, variant: VariantName, handle: Handle | None, seconds: float) -> None:
        """Called after a variant was loaded and warmed up in `seconds`; `handle` is None if it cannot run."""


class Loader:
    """Loads the variants of models.

    Args:
        settings: Settings with the number of threads per run and the fallback policy.
        find_backend: Returns the backend that loads a variant.
    """

    def __init__(self, settings: Settings, find_backend: Callable[[VariantName], Backend]) -> None:
        self._settings, self._find_backend = settings, find_backend

    def fill(
        self,
        entry: Entry,
        wanted: list[VariantName],
        *,
        on_loaded: OnLoaded | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Loads variants of a model version into its entry. A broken model raises nothing. Blocks for seconds.

        Args:
            entry: Entry of the version.
            wanted: The variants to load.
            on_loaded: Called after each variant.
            stop: Called before each variant; loading stops if it returns True.
        """
        card = entry.card
        error = self._fault_of_file(entry)
        if error is not None:
            entry.variants = {variant: Loaded(error=error) for variant in wanted}
            if on_loaded is not None:  # needed for the gauges, and thus for alerts
                for variant in wanted:
                    on_loaded(card, variant, None, 0.0)
            return
        for variant in wanted:
            if stop():
                return
            begun = time.perf_counter()
            loaded = self._try_variant(entry, variant)
            entry.seconds[variant] = time.perf_counter() - begun
            # A new dictionary: threads that answer requests may be in the middle of going through the old one.
            entry.variants = {**entry.variants, variant: loaded}
            if on_loaded is not None:
                on_loaded(card, variant, loaded.handle, entry.seconds[variant])
        entry.fallback = self._fallback(entry)

    def _fallback(self, entry: Entry) -> Handle | None:
        error = entry.variants.get("binary", Loaded()).error
        reference = entry.variants.get("reference", Loaded()).handle
        if self._settings.fallback != "reference" or not isinstance(error, OpUnavailableError) or reference is None:
            return None
        why = f"`binary` cannot run here, so `reference` ran instead: {error.detail}"
        return Handle(reference.card, "reference", reference.model, reference.kernel, fallback=why)

    def _fault_of_file(self, entry: Entry) -> ServiceError | None:
        """What keeps every variant of a version from running, or None."""
        card = entry.card
        try:
            card.verify_file()
        except ServiceError as error:
            log.error("model %s in %s cannot be served: %s", entry.label, card.directory, error)  # noqa: TRY400
            return kept(error)
        except Exception as error:  # as for a variant, below
            log.exception("model %s in %s cannot be served", entry.label, card.directory)
            return ModelBrokenError(card.name, f"{card.file} cannot be verified: {type(error).__name__}; {_SEE_LOG}")
        return None

    def _try_variant(self, entry: Entry, variant: VariantName) -> Loaded:
        try:
            handle = self._load_variant(entry.card, variant)
        except ServiceError as error:
            log.error("%s of %s in %s cannot run: %s", variant, entry.label, entry.card.directory, error)  # noqa: TRY400
            return Loaded(error=kept(error))
        except Exception as error:  # an unexpected error in one model must not affect the others
            log.exception("%s of %s in %s cannot run", variant, entry.label, entry.card.directory)
            reason = f"{variant} does not load: {type(error).__name__}; {_SEE_LOG}"
            return Loaded(error=ModelBrokenError(entry.card.name, reason))
        log.info("%s of model %s is ready (%s)", variant, entry.label, handle.kernel)
        return Loaded(handle)

    def _load_variant(self, card: Card, variant: VariantName) -> Handle:
        backend = self._find_backend(variant)
        model = backend.load(card, variant, intra_op_threads=self._settings.intra_op_threads)
        model.warm_up()
        card.verify_file()  # again, because the file may have been replaced since, by that of another network
        return Handle(card, variant, model, model.describe()["kernel"])
