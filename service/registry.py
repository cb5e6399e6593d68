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
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from service.backends import backend_for
from service.backends.base import Backend, LoadedModel
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
from service.settings import Settings
from service.tasks import TASKS, Task

log = logging.getLogger(__name__)

State = Literal["starting", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class Handle:
    """A network that is ready to run, and how it came to be chosen.

    Attributes:
        card: of the model that runs; for `full` of a binary model that is the twin's.
        variant: the variant that runs.
        model: the loaded network.
        kernel: instruction set of the bit-packed kernel, or `onnxruntime`.
        fallback: why another variant than the one asked for runs; None normally.
    """

    card: Card
    variant: VariantName
    model: LoadedModel
    kernel: str
    fallback: str | None = None

    @property
    def task(self) -> Task[Any, Any]:
        """What the network does."""
        return TASKS[self.card.task]


@dataclass(slots=True)
class Loaded:
    """One variant of one model: a handle, or the reason why there is none."""

    handle: Handle | None = None
    error: ServiceError | None = None


@dataclass(slots=True)
class Entry:
    """One version of one model."""

    card: Card
    variants: dict[VariantName, Loaded] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`name@version`."""
        return f"{self.card.name}@{self.card.version}"

    def errors(self) -> Iterator[ServiceError]:
        """What is wrong with its variants."""
        return (loaded.error for loaded in self.variants.values() if loaded.error is not None)


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests can be answered, and what is missing if not.

    Attributes:
        state: `starting` while models load; `failed` when what must be served cannot be.
        reasons: one sentence for each thing that is missing.
        models: every model variant, `name@version/variant`, and whether it runs.
    """

    state: State
    reasons: tuple[str, ...]
    models: dict[str, bool]


class Registry:
    """The models of one folder.

    Args:
        settings: where they are, which are the defaults, the fallback policy and the threads of a run.
        on_loaded: called with each handle once it is warm (metrics).
        find_backend: what loads a variant; tests and other runtimes give their own.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_loaded: Callable[[Handle], None] | None = None,
        find_backend: Callable[[VariantName], Backend] = backend_for,
    ) -> None:
        self._settings = settings
        self._on_loaded = on_loaded
        self._find_backend = find_backend
        self._entries: dict[str, list[Entry]] = {}  # by name, newest version first
        self._broken: dict[str, ServiceError] = {}  # by folder
        self._finished = threading.Event()

    # ---- loading ---------------------------------------------------------------------------------------------------

    def load(self, only: Iterable[str] | None = None) -> None:
        """Loads and warms up everything; never raises for a model. Blocks for seconds: call it in a thread.

        Args:
            only: names of the models to load, with their twins; None loads all.
        """
        wanted = None if only is None else set(only)
        for folder in _model_folders(self._settings.model_dir):
            label = f"{folder.parent.name}@{folder.name}"
            try:
                card = _read_card(folder)
            except ServiceError as error:
                self._broken[label] = error
                log.error("model %s cannot be served: %s", label, error)  # noqa: TRY400  the message says it all
                continue
            versions = [*self._entries.get(card.name, []), Entry(card)]
            self._entries[card.name] = sorted(
                versions, key=lambda entry: _version_key(entry.card.version), reverse=True
            )
        if wanted is not None:
            wanted |= {entry.card.full for entry in self._all() if entry.card.name in wanted and entry.card.full}
        for entry in list(self._all()):
            if wanted is None or entry.card.name in wanted:
                self._load_entry(entry)
        self._finished.set()

    def _load_entry(self, entry: Entry) -> None:
        card = entry.card
        try:
            card.verify_file()
        except ServiceError as error:
            entry.variants = {variant: Loaded(error=error) for variant in card.variants}
            log.error("model %s cannot be served: %s", entry.label, error)  # noqa: TRY400
            return
        for variant in card.variants:
            try:
                handle = self._load_variant(card, variant)
            except ServiceError as error:
                entry.variants[variant] = Loaded(error=error)
                log.error("%s of model %s cannot run: %s", variant, entry.label, error)  # noqa: TRY400
            except Exception as error:  # whatever a runtime raises about one model, the others are served
                broken = ModelBrokenError(card.name, f"{variant} does not load: {type(error).__name__}: {error}.")
                entry.variants[variant] = Loaded(error=broken)
                log.exception("%s of model %s cannot run", variant, entry.label)
            else:
                entry.variants[variant] = Loaded(handle)
                if self._on_loaded is not None:
                    self._on_loaded(handle)
                log.info("%s of model %s is ready (%s)", variant, entry.label, handle.kernel)

    def _load_variant(self, card: Card, variant: VariantName) -> Handle:
        backend = self._find_backend(variant)
        model = backend.load(card, variant, intra_op_threads=self._settings.intra_op_threads)
        model.warm_up()
        return Handle(card, variant, model, model.describe()["kernel"])

    def close(self) -> None:
        """Releases every network. Nothing may be running."""
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
        raise UnknownModelError(named, dict.fromkeys(available))

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
        if not folder.is_dir():
            yield f"The model folder {folder} does not exist: set BIREAL_MODEL_DIR to a folder of <name>/<version>/."
            return
        if not self._entries and not self._broken:
            yield f"The model folder {folder} holds no model: a model is <name>/<version>/{CARD_FILE} with its file."
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
            return f"Put a {task} model into {self._settings.model_dir}."
        return f"Set BIREAL_DEFAULT_{task.upper()}_MODEL to one of: {', '.join(names)}."

    def _all(self) -> Iterator[Entry]:
        for versions in list(self._entries.values()):
            yield from versions


def _model_folders(model_dir: Path) -> list[Path]:
    """Every `<name>/<version>` folder, sorted; hidden ones and files are passed over."""
    if not model_dir.is_dir():
        return []
    names = [path for path in sorted(model_dir.iterdir()) if path.is_dir() and not path.name.startswith((".", "_"))]
    return [
        path
        for name in names
        for path in sorted(name.iterdir())
        if path.is_dir() and not path.name.startswith((".", "_"))
    ]


def _read_card(folder: Path) -> Card:
    """Loads a card and checks that it lies where it says it does."""
    card = Card.load(folder)
    if (card.name, card.version) != (folder.parent.name, folder.name):
        raise ModelBrokenError(
            f"{folder.parent.name}@{folder.name}",
            f"the card names the model {card.name!r}, version {card.version!r}, and lies in another folder.",
            remedy="Rename the folder to <name>/<version>, or correct the card.",
        )
    return card


def _version_key(version: str) -> list[tuple[int, int | str]]:
    """Orders versions as people do: 2 before 10, 1.9 before 1.10."""
    return [(1, int(part)) if part.isdigit() else (0, part) for part in re.split(r"(\d+)", version) if part]
