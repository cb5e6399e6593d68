"""The registry of models: it scans, verifies, loads and warms up the models of a folder, and resolves requests.

`Registry.load` walks `<model_dir>/<name>/<version>/` and loads every variant of every model. A broken model does not
affect the others: its error is kept and shown at `/models`. `readiness` decides whether the service is ready. `resolve`
finds the network for a task, model and variant by the rules of `service.registry.resolution`. Changes at run time are
in `service.registry.changes`.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from service.backends import backend_for
from service.backends.base import Backend
from service.card import CARD_FILE, Card, TaskName, VariantName, version_key
from service.errors import ModelBrokenError, NotReadyError, OpUnavailableError, ServiceError
from service.registry.catalog import Catalog
from service.registry.entries import Entry, Handle, Readiness
from service.registry.folder import LABELS_FILE, Listing, ModelFolder
from service.registry.loader import Loader, OnLoaded
from service.registry.resolution import Resolution
from service.settings import Settings

log = logging.getLogger(__name__)


class Registry:
    """The models of one folder. Every method may be called from any thread.

    Args:
        settings: the model folder, the default models, the fallback policy and the threads per run.
        find_backend: returns the backend that loads a variant; tests and other runtimes pass their own.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        find_backend: Callable[[VariantName], Backend] = backend_for,
    ) -> None:
        self._settings = settings
        self.folder = ModelFolder(settings.model_dir)
        self.loader = Loader(settings, find_backend)
        self._on_loaded: OnLoaded | None = None
        self._on_retired: Callable[[Entry], None] | None = None
        self._catalog = Catalog()
        self._unreadable: str | None = None
        self._scanned = False
        self._gave_up: str | None = None
        self._finished = threading.Event()
        self._closing = threading.Event()

    # ---- loading ---------------------------------------------------------------------------------------------------

    def scan(self) -> None:
        """Reads the card of every model, but loads none. Errors of models or of the folder are logged, not raised."""
        self._scanned = True
        try:
            listing = self.listing()
        except OSError as error:
            log.error("the model folder %s cannot be read: %s", self._settings.model_dir, error)  # noqa: TRY400  # the error says it
            return
        if not listing.versions:
            log.error("the model folder %s holds no model", self._settings.model_dir)
        catalog = self._catalog
        for name, unreadable in listing.unreadable.items():
            catalog = catalog.with_broken(name, unreadable)
            log.error("the folder %s in %s was skipped: %s", name, self._settings.model_dir, unreadable)
        # The oldest version of each model first: if another one is of a different task, that one is broken.
        for folder in sorted(listing.versions, key=lambda each: (each.parent.name, version_key(each.name))):
            label = f"{folder.parent.name}@{folder.name}"
            try:
                catalog = catalog.with_entry(Entry(self.read(folder, beside=catalog)))
            except ServiceError as error:
                catalog = catalog.with_broken(label, error)
                log.error("model %s in %s cannot be served: %s", label, folder, error)  # noqa: TRY400
        for name in list(catalog.entries):
            catalog = self.relabelled(catalog, name)
        self._catalog = catalog

    def listing(self) -> Listing:
        """Lists the folder, and remembers whether that was possible; see `ModelFolder.listing`.

        Raises:
            OSError: The model folder cannot be read.
        """
        try:
            listing = self.folder.listing()
        except OSError as error:
            self._unreadable = f"The model folder cannot be read: {error.strerror}."
            raise
        self._unreadable = None
        return listing

    def read(self, folder: Path, *, beside: Catalog) -> Card:
        """Reads a card; see `ModelFolder.read`. Whatever fails is the error of this version, so that others load.

        Args:
            folder: The folder of the version.
            beside: What the version is to be served with.

        Raises:
            ModelBrokenError: The card cannot be read, or its task is not that of the model's other versions.
        """
        label = f"{folder.parent.name}@{folder.name}"
        try:
            card = self.folder.read(folder)
        except ServiceError:
            raise
        except Exception as error:
            log.exception("the card of %s in %s cannot be read", label, folder)
            raise ModelBrokenError(
                label, f"its card cannot be read: {type(error).__name__}; see the service's log."
            ) from error
        beside.check_task(card)
        return card

    def relabelled(self, catalog: Catalog, name: str) -> Catalog:
        """Returns a catalog with the labels in a model's labels file now."""
        file = f"{name}/{LABELS_FILE}"
        try:
            return catalog.with_labels(name, self.folder.labels(name)).with_broken(file, None)
        except ServiceError as error:
            log.error("the labels of %s cannot be read: %s", name, error)  # noqa: TRY400
            return catalog.with_broken(file, error)
        except Exception as error:  # whatever it is, it must not affect the other models
            log.exception("the labels of %s cannot be read", name)
            reason = f"{LABELS_FILE}: it cannot be read: {type(error).__name__}; see the service's log."
            return catalog.with_broken(file, ModelBrokenError(name, reason))

    def load(self, select: Callable[[Card, VariantName], bool] = lambda card, variant: True) -> None:  # noqa: ARG005
        """Scans, loads and warms up. A broken model raises nothing. Blocks for seconds: call it in a thread.

        Args:
            select: whether to load a variant of a model; by default, all are loaded.
        """
        if self._finished.is_set():
            return
        if not self._scanned:
            self.scan()
        for entry in self.entries():
            wanted = [variant for variant in entry.card.variants if select(entry.card, variant)]
            if wanted and not self._closing.is_set():
                self.loader.fill(entry, wanted, on_loaded=self._on_loaded, stop=self._closing.is_set)
        self._finished.set()

    def give_up(self, reason: str) -> None:
        """Ends the loading, if `load` did not finish it. What was loaded is served, but the service is not ready.

        Args:
            reason: What went wrong, one sentence for `readiness`.
        """
        if not self._finished.is_set():
            self._gave_up = reason
            self._finished.set()

    def observe(self, on_loaded: OnLoaded, on_retired: Callable[[Entry], None] | None = None) -> None:
        """Sets the callbacks for loaded and retired models; variants that are already loaded are reported at once.

        Args:
            on_loaded: called for each variant that was tried.
            on_retired: called for a version that is no longer served; requests may still run on it.
        """
        self._on_loaded, self._on_retired = on_loaded, on_retired
        for entry in self.catalog.all():
            self._report_loaded(entry)

    def _report_loaded(self, entry: Entry) -> None:
        if self._on_loaded is not None:
            for variant, loaded in entry.variants.items():
                self._on_loaded(entry.card, variant, loaded.handle, entry.seconds.get(variant, 0.0))

    def change(self, catalog: Catalog, *, old: Entry | None = None, new: Entry | None = None) -> None:
        """Replaces the served catalog. All changes after the models are loaded go through this method.

        Requests keep the network that they have resolved, and it is freed after the last of them.

        Args:
            catalog: the catalog to serve from now on.
            old: a version that is no longer in it.
            new: a version that was added to it.
        """
        self._catalog = catalog
        if old is not None and self._on_retired is not None:
            self._on_retired(old)
        if new is not None:
            self._report_loaded(new)

    def close(self) -> None:
        """Releases every network and stops loading after the current variant. Runs in progress finish first."""
        self.stop_loading()
        entries = list(self.catalog.all())
        self._catalog = Catalog()
        for entry in entries:
            entry.close()

    def stop_loading(self) -> None:
        """Stops loading after the current variant, for good. What is loaded is served until `close`."""
        self._closing.set()

    @property
    def closing(self) -> bool:
        """Whether nothing is loaded any more."""
        return self._closing.is_set()

    # ---- contents --------------------------------------------------------------------------------------------------

    @property
    def catalog(self) -> Catalog:
        """The catalog that is served now."""
        return self._catalog

    def entries(self) -> list[Entry]:
        """Lists every model version, by name, newest first."""
        return sorted(self.catalog.all(), key=lambda entry: entry.card.name)

    def broken(self) -> Mapping[str, ServiceError]:
        """Returns the errors of versions that cannot be read or have no variant that runs, by `name@version`."""
        catalog = self.catalog
        found = dict(catalog.broken)
        for entry in catalog.all():
            errors = list(entry.errors())
            if errors and len(errors) == len(entry.card.variants):
                found[entry.label] = errors[0]
        return found

    def versions(self, name: str) -> list[str]:
        """Lists the versions of a model, newest first."""
        return [entry.card.version for entry in self.catalog.entries.get(name, ())]

    def default(self, task: TaskName, catalog: Catalog | None = None) -> str | None:
        """Returns the name of a task's default model in the served or another catalog, or None."""
        return Resolution(self._settings, self.catalog if catalog is None else catalog).default(task)

    def is_default(self, entry: Entry) -> bool:
        """Whether a version answers requests for its task that name no model."""
        resolution = Resolution(self._settings, self.catalog)
        try:
            return resolution.entry(entry.card.task, None) is entry
        except ServiceError:
            return False

    def serves(self, handle: Handle) -> bool:
        """Whether a network is served now, and was not unloaded or replaced since a request resolved it."""
        entry = self.catalog.version(handle.card.name, handle.card.version)
        return entry is not None and any(loaded.handle is handle for loaded in entry.variants.values())

    # ---- resolution ------------------------------------------------------------------------------------------------

    def resolve(self, task: TaskName, model: str | None = None, variant: str | None = None) -> Handle:
        """Finds the network that runs a request.

        Args:
            task: the endpoint's task.
            model: `NAME`, `NAME@VERSION` or `NAME@LABEL`; None for the task's default.
            variant: `binary`, `reference` or `full`; None for the default.

        Raises:
            NotReadyError: models are still being loaded, none is served, or the task has several and no default one.
            NoModelError: models are served, but none for this task.
            UnknownModelError: there is no such model, or it has another task.
            UnknownVariantError: there is no such variant.
            VariantNotServedError: the model does not have this variant; the error names a model that has, if any.
            OpUnavailableError: the operator cannot be loaded and no fallback is set.
            ModelBrokenError: the model exists but cannot run.
        """
        return self._resolution().handle(task, model, variant)

    def find(self, model: str) -> Entry:
        """Finds a model version by name, regardless of its task; see `resolve`.

        Raises:
            NotReadyError: models are still being loaded.
            UnknownModelError: there is no such model.
        """
        return self._resolution().any_task(model)

    def resolve_model(self, model: str, variant: str | None = None) -> Handle:
        """Finds the network for a request that names its model but not its task; see `resolve`."""
        resolution = self._resolution()
        return resolution.handle(resolution.any_task(model).card.task, model, variant)

    def check_loaded(self) -> None:
        """Raises `NotReadyError` while models are still being loaded."""
        if not self._finished.is_set():
            raise NotReadyError("The models are still being loaded.")

    def _resolution(self) -> Resolution:
        self.check_loaded()
        return Resolution(self._settings, self.catalog)

    # ---- readiness -------------------------------------------------------------------------------------------------

    def readiness(self) -> Readiness:
        """Returns whether everything that must be served is: each task's default model, and every binary model."""
        models = {
            f"{entry.label}/{variant}": variant in entry.variants and entry.variants[variant].handle is not None
            for entry in self.entries()
            for variant in entry.card.variants
        }
        if not self._finished.is_set():
            done = sum(models.values())
            return Readiness("starting", (f"Loading the models: {done} of {len(models)} variants are ready.",), models)
        reasons = self.missing(self.catalog)
        if self._gave_up is not None:
            reasons = [self._gave_up, *reasons]
        return Readiness("failed" if reasons else "ready", tuple(reasons), models)

    def missing(self, catalog: Catalog) -> list[str]:
        """Lists what a catalog lacks of what must be served, one sentence each."""
        return list(dict.fromkeys(self._missing(catalog)))

    def _missing(self, catalog: Catalog) -> Iterator[str]:
        if not catalog.entries:  # what is in memory is served, however its folder fares
            yield from self._no_models(catalog)
            return
        resolution = Resolution(self._settings, catalog)
        for entry in catalog.all():
            for variant, loaded in entry.variants.items():
                replaced = variant == "binary" and entry.fallback is not None
                if isinstance(loaded.error, OpUnavailableError) and not replaced:
                    yield str(loaded.error)
        for task in {entry.card.task for entry in catalog.all()}:
            name = resolution.default(task)
            if name is None:
                yield f"/{task} has several models and no default. {resolution.default_remedy(task)}"
                continue
            try:
                resolution.handle(task, None, None)
            except OpUnavailableError:
                continue  # already reported above
            except ServiceError as error:
                yield f"/{task} cannot answer: {error}"

    def _no_models(self, catalog: Catalog) -> Iterator[str]:
        """Says why a catalog has no model."""
        if self._unreadable is not None and not catalog.broken:
            yield self._unreadable
        elif not os.path.isdir(self._settings.model_dir):  # noqa: PTH112  Path.is_dir raises where a parent may not be searched
            yield "The model folder does not exist: set BIREAL_MODEL_DIR to a folder of <name>/<version>/."
        else:
            if not any("@" in label for label in catalog.broken):  # of a version; there may be unreadable subfolders
                yield f"The model folder holds no model: a model is <name>/<version>/{CARD_FILE} with its file."
            yield from (str(error) for error in catalog.broken.values())
