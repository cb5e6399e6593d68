"""From a folder of models to handles that answer: scan, verify, load, warm up, and the rules of resolution.

`Registry.load` walks `<model_dir>/<name>/<version>/` and brings up every variant of every model. One broken model
never takes down the others: what is wrong with it is kept and told at `/models`, and whether the service may call
itself ready is decided by `readiness`. `resolve` answers "which network runs for this task, model and variant?":

* no model named: the task's default; `NAME` is its newest version, `NAME@VERSION` that one;
* no variant named: the default variant if the model has it, else the model's own;
* `full` of a binary model is its twin, named by the card; `binary` of a full-precision model is an error that names
  the binary counterpart;
* `binary` where the op cannot load is an error; with `fallback=reference` the reference runs, and the handle says so.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from service.backends import backend_for
from service.backends.base import Backend
from service.card import CARD_FILE, VARIANTS, Card, TaskName, VariantName
from service.errors import (
    ModelBrokenError,
    NotReadyError,
    OpUnavailableError,
    ServiceError,
    UnknownModelError,
    UnknownVariantError,
    VariantNotServedError,
)
from service.registry.entries import Entry, Handle, Loaded, Readiness, model_folders, read_card, version_key
from service.settings import Settings

log = logging.getLogger(__name__)


class OnLoaded(Protocol):
    """Told of each variant that was tried."""

    def __call__(self, card: Card, variant: VariantName, handle: Handle | None, seconds: float) -> None:
        """A variant was loaded and warmed up in so many seconds; `handle` is None when it cannot run."""


class Registry:
    """The models of one folder.

    Args:
        settings: where they are, which are the defaults, the fallback policy and the threads of a run.
        find_backend: what loads a variant; tests and other runtimes give their own.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        find_backend: Callable[[VariantName], Backend] = backend_for,
    ) -> None:
        self._settings = settings
        self._on_loaded: OnLoaded | None = None
        self._find_backend = find_backend
        self._entries: dict[str, list[Entry]] = {}  # by name, newest version first
        self._broken: dict[str, ServiceError] = {}  # by folder
        self._unreadable: str | None = None
        self._scanned = False
        self._finished = threading.Event()
        self._closing = threading.Event()

    # ---- loading ---------------------------------------------------------------------------------------------------

    def scan(self) -> None:
        """Reads the card of every model; loads none. Never raises for a model, nor for the folder."""
        self._scanned = True
        try:
            folders = model_folders(self._settings.model_dir)
        except OSError as error:
            self._unreadable = f"The model folder cannot be read: {error.strerror}."
            log.error("the model folder %s cannot be read: %s", self._settings.model_dir, error)  # noqa: TRY400
            return
        if not folders:
            log.error("the model folder %s holds no model", self._settings.model_dir)
        for folder in folders:
            label = f"{folder.parent.name}@{folder.name}"
            try:
                card = read_card(folder)
            except ServiceError as error:
                self._broken[label] = error
                log.error("model %s in %s cannot be served: %s", label, folder, error)  # noqa: TRY400  says it all
                continue
            versions = [*self._entries.get(card.name, []), Entry(card)]
            versions.sort(key=lambda entry: version_key(entry.card.version), reverse=True)
            self._entries[card.name] = versions

    def load(self, select: Callable[[Card, VariantName], bool] = lambda card, variant: True) -> None:  # noqa: ARG005
        """Scans, loads and warms up; never raises for a model. Blocks for seconds: call it in a thread.

        Args:
            select: which variants of which models to load; by default all.
        """
        if self._finished.is_set():
            return
        if not self._scanned:
            self.scan()
        for entry in self.entries():
            if not self._closing.is_set():
                self._load_entry(entry, select)
        self._finished.set()

    def observe(self, on_loaded: OnLoaded) -> None:
        """Has every variant that is tried from now on reported, and those that are loaded already at once."""
        self._on_loaded = on_loaded
        for entry in self._all():
            for variant, loaded in entry.variants.items():
                on_loaded(entry.card, variant, loaded.handle, 0.0)

    def _load_entry(self, entry: Entry, select: Callable[[Card, VariantName], bool]) -> None:
        card = entry.card
        wanted = [variant for variant in card.variants if select(card, variant)]
        if not wanted:
            return
        try:
            card.verify_file()
        except ServiceError as error:
            entry.variants = {variant: Loaded(error=error) for variant in wanted}
            log.error("model %s in %s cannot be served: %s", entry.label, card.directory, error)  # noqa: TRY400
            return
        for variant in wanted:
            if self._closing.is_set():
                return
            begun = time.perf_counter()
            loaded = self._try_variant(entry, variant)
            entry.variants[variant] = loaded
            if self._on_loaded is not None:
                self._on_loaded(card, variant, loaded.handle, time.perf_counter() - begun)

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

    def close(self) -> None:
        """Releases every network, and stops loading after the one under way. Runs in progress finish first."""
        self._closing.set()
        for entry in self._all():
            for loaded in entry.variants.values():
                if loaded.handle is not None:
                    loaded.handle.model.close()
        self._entries.clear()

    # ---- what there is ---------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Every model version, by name, newest first."""
        return sorted(self._all(), key=lambda entry: entry.card.name)

    def broken(self) -> dict[str, ServiceError]:
        """What could not even be read, or has no variant that runs: `name@version` and what is wrong."""
        found = dict(self._broken)
        for entry in self._all():
            errors = list(entry.errors())
            if errors and len(errors) == len(entry.card.variants):
                found[entry.label] = errors[0]
        return found

    def default(self, task: TaskName) -> str | None:
        """Name of the model that answers a task when none is named; None when there is none.

        The one in the settings. Where that was left as it is and is not served, the only (binary) model of the task.
        """
        setting = f"default_{task}_model"
        name: str = getattr(self._settings, setting)
        if name in self._entries or setting in self._settings.model_fields_set:
            return name
        cards = [versions[0].card for versions in list(self._entries.values()) if versions[0].card.task == task]
        candidates = [card.name for card in cards if card.precision == "binary"] or [card.name for card in cards]
        return candidates[0] if len(candidates) == 1 else None

    # ---- resolution ------------------------------------------------------------------------------------------------

    def resolve(self, task: TaskName, model: str | None = None, variant: str | None = None) -> Handle:
        """Finds the network that runs a request.

        Args:
            task: what the endpoint does.
            model: `NAME` or `NAME@VERSION`; None takes the task's default.
            variant: `binary`, `reference` or `full`; None takes the default.

        Raises:
            NotReadyError: models are still being loaded, or the task has no default that is served.
            UnknownModelError: no such model, or it does something else.
            UnknownVariantError: no such variant exists.
            VariantNotServedError: the model has no such variant; names the model that has, if one does.
            OpUnavailableError: the op cannot load and no fallback is set.
            ModelBrokenError: the model is there and cannot be run.
        """
        if variant is not None and variant not in VARIANTS:
            raise UnknownVariantError(variant)
        entry = self._entry(task, model)
        served = (*entry.card.variants, "full") if entry.card.full else entry.card.variants
        wanted: VariantName
        if variant is None:
            default = self._settings.default_variant
            wanted = default if default in served else entry.card.variants[0]
        else:
            wanted = variant
        if wanted not in served:
            raise VariantNotServedError(entry.card.name, wanted, served, self._counterpart(entry.card.name))
        if wanted not in entry.card.variants:
            return self._twin(entry)
        return self._run(entry, wanted)

    def find(self, model: str) -> Entry:
        """The model version of a name, `NAME` or `NAME@VERSION`, whatever its task.

        Raises:
            NotReadyError: models are still being loaded.
            UnknownModelError: no such model.
        """
        if not self._finished.is_set():
            raise NotReadyError("The models are still being loaded.", headers={"Retry-After": "2"})
        entries = self._entries.get(model.partition("@")[0])
        if not entries:
            raise UnknownModelError(model, self._entries)
        return self._entry(entries[0].card.task, model)

    def resolve_model(self, model: str, variant: str | None = None) -> Handle:
        """Finds the network that runs a request which names its model and not its task; see `resolve`."""
        return self.resolve(self.find(model).card.task, model, variant)

    def versions(self, name: str) -> list[str]:
        """The versions of a model, newest first."""
        return [entry.card.version for entry in self._entries.get(name, ())]

    def _entry(self, task: TaskName, model: str | None) -> Entry:
        if not self._finished.is_set():
            raise NotReadyError("The models are still being loaded.", headers={"Retry-After": "2"})
        named = self.default(task) if model is None else model
        if named is None:
            raise NotReadyError(f"No model for /{task} is being served.", remedy=self._default_remedy(task))
        name, _, version = named.partition("@")
        versions = [entry for entry in self._entries.get(name, ()) if entry.card.task == task]
        for entry in versions:
            if version in ("", entry.card.version):
                return entry
        for label, error in self._broken.items():
            if named in (label, label.partition("@")[0]):
                raise error
        available = sorted(entry.card.name for entry in self._all() if entry.card.task == task)
        elsewhere = next((entry.card.task for entry in self._entries.get(name, ())), None)
        raise UnknownModelError(named, dict.fromkeys(available), other_task=None if versions else elsewhere)

    def _run(self, entry: Entry, variant: VariantName) -> Handle:
        loaded = entry.variants.get(variant, Loaded())
        if loaded.handle is not None:
            return loaded.handle
        substitute = self._fallback(entry, variant)
        if substitute is not None:
            return substitute
        if loaded.error is None:
            raise NotReadyError(f"{variant} of {entry.label} was not loaded.")
        raise loaded.error

    def _fallback(self, entry: Entry, variant: VariantName) -> Handle | None:
        """The reference run in place of a `binary` whose op cannot load, if the settings allow it."""
        error = entry.variants.get(variant, Loaded()).error
        if variant != "binary" or self._settings.fallback != "reference" or not isinstance(error, OpUnavailableError):
            return None
        reference = entry.variants.get("reference", Loaded()).handle
        if reference is None:
            return None
        return Handle(
            reference.card,
            "reference",
            reference.model,
            reference.kernel,
            fallback=f"`binary` was asked for and cannot run here, so `reference` ran: {error.detail}",
        )

    def _twin(self, entry: Entry) -> Handle:
        twin = entry.card.full
        assert twin is not None
        versions = self._entries.get(twin)
        if not versions:
            error = self._broken.get(twin) or next(
                (error for label, error in self._broken.items() if label.partition("@")[0] == twin), None
            )
            raise error or VariantNotServedError(entry.card.name, "full", entry.card.variants)
        return self._run(versions[0], "full")

    def _counterpart(self, full: str) -> str | None:
        """The binary model whose twin is `full`."""
        return next((entry.card.name for entry in self._all() if entry.card.full == full), None)

    # ---- readiness -------------------------------------------------------------------------------------------------

    def readiness(self) -> Readiness:
        """Says whether what must be served is served: every task's default, and the op wherever a model is binary."""
        models = {
            f"{entry.label}/{variant}": variant in entry.variants and entry.variants[variant].handle is not None
            for entry in self.entries()
            for variant in entry.card.variants
        }
        if not self._finished.is_set():
            done = sum(models.values())
            return Readiness("starting", (f"Loading the models: {done} of {len(models)} variants are ready.",), models)
        reasons = list(self._missing())
        return Readiness("failed" if reasons else "ready", tuple(dict.fromkeys(reasons)), models)

    def _missing(self) -> Iterator[str]:
        folder = self._settings.model_dir
        if self._unreadable is not None:
            yield self._unreadable
            return
        if not folder.is_dir():
            yield "The model folder does not exist: set BIREAL_MODEL_DIR to a folder of <name>/<version>/."
            return
        if not self._entries and not self._broken:
            yield f"The model folder holds no model: a model is <name>/<version>/{CARD_FILE} with its file."
            return
        if not self._entries:
            yield from (str(error) for error in self._broken.values())
            return
        for entry in self._all():
            for variant, loaded in entry.variants.items():
                if isinstance(loaded.error, OpUnavailableError) and self._fallback(entry, variant) is None:
                    yield str(loaded.error)
        for task in {entry.card.task for entry in self._all()}:
            name = self.default(task)
            if name is None:
                yield f"/{task} has several models and no default. {self._default_remedy(task)}"
                continue
            try:
                self.resolve(task)
            except OpUnavailableError:
                continue  # said above
            except ServiceError as error:
                yield f"/{task} cannot answer: {error}"

    def _default_remedy(self, task: TaskName) -> str:
        names = sorted({entry.card.name for entry in self._all() if entry.card.task == task})
        if not names:
            return f"Put a {task} model into the folder that BIREAL_MODEL_DIR names."
        return f"Set BIREAL_DEFAULT_{task.upper()}_MODEL to one of: {', '.join(names)}."

    def _all(self) -> Iterator[Entry]:
        for versions in list(self._entries.values()):
            yield from versions
