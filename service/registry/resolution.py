"""The rules that resolve a request to a network, on a catalog.

* Without a model, the task's default model runs. `NAME` is its default version; `NAME@VERSION` and `NAME@LABEL` are
  that version.
* Without a variant, the default variant runs if the model has it, else the model's own.
* `full` of a binary model is its twin, named in the card. `binary` of a full-precision model is an error that names the
  binary counterpart.
* `binary` is an error if the operator cannot be loaded. With `fallback=reference`, the reference runs instead, and the
  handle says so.
"""

from service.card import VARIANTS, TaskName, VariantName
from service.errors import (
    NoModelError,
    NotReadyError,
    ServiceError,
    UnknownModelError,
    UnknownVariantError,
    VariantNotServedError,
)
from service.registry.catalog import Catalog
from service.registry.entries import Entry, Handle, Loaded
from service.settings import Settings


class Resolution:
    """The rules, applied to one catalog.

    Args:
        settings: Default models and variant.
        catalog: The catalog.
    """

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings, self._catalog = settings, catalog

    def default(self, task: TaskName) -> str | None:
        """Returns the name of a task's default model, or None.

        This is the one in the settings. If the setting was not changed and its model is not served, it is the task's
        only binary model, or its only model.
        """
        setting = f"default_{task}_model"
        name: str = getattr(self._settings, setting)
        if name in self._catalog.entries or setting in self._settings.model_fields_set:
            return name
        cards = [versions[0].card for versions in self._catalog.entries.values() if versions[0].card.task == task]
        candidates = [card.name for card in cards if card.precision == "binary"] or [card.name for card in cards]
        return candidates[0] if len(candidates) == 1 else None

    def default_remedy(self, task: TaskName) -> str:
        """Returns what the service's operator can do if a task has no default model."""
        names = sorted({entry.card.name for entry in self._catalog.all() if entry.card.task == task})
        if not names:
            return f"Put a {task} model into the folder that BIREAL_MODEL_DIR names."
        return f"Set BIREAL_DEFAULT_{task.upper()}_MODEL to one of: {', '.join(names)}."

    def handle(self, task: TaskName, model: str | None, variant: str | None) -> Handle:
        """Returns the network that runs a request; see `Registry.resolve`."""
        if variant is not None and variant not in VARIANTS:
            raise UnknownVariantError(variant, VARIANTS)
        entry = self.entry(task, model)
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

    def entry(self, task: TaskName, model: str | None) -> Entry:
        """Returns the model version that a request refers to; see `Registry.resolve`."""
        named = self.default(task) if model is None else model
        if named is None:
            raise self._no_default(task)
        name, at, version = named.partition("@")
        # `NAME@` is probably `NAME@$VERSION` with an unset variable: reject it instead of taking any version.
        entry = None if at and not version else self._catalog.select(name, version)
        if entry is not None and entry.card.task == task:
            return entry
        if entry is None:
            self._raise_broken(named)
        available = sorted(entry.card.name for entry in self._catalog.all() if entry.card.task == task)
        if at and any(entry.card.task == task for entry in self._catalog.entries.get(name, ())):
            versions = [entry.card.version for entry in self._catalog.entries[name]]
            labels = [label for label, of in self._catalog.labels.get(name, {}).items() if of in versions]
            available = [f"{name}@{each}" for each in (*versions, *labels)]
        elsewhere = next((entry.card.task for entry in self._catalog.entries.get(name, ())), None)
        raise UnknownModelError(named, dict.fromkeys(available), other_task=None if elsewhere == task else elsewhere)

    def _no_default(self, task: TaskName) -> ServiceError:
        """The error for a request that names no model, where its task has no default one."""
        broken = self._broken(getattr(self._settings, f"default_{task}_model"))
        if broken is not None:
            return broken
        if self._catalog.entries and not any(entry.card.task == task for entry in self._catalog.all()):
            return NoModelError(task)
        return NotReadyError(f"No model answers for {task}.", remedy=self.default_remedy(task))

    def any_task(self, model: str) -> Entry:
        """Returns the model version of a name, regardless of its task; see `Registry.find`."""
        entries = self._catalog.entries.get(model.partition("@")[0])
        if not entries:
            self._raise_broken(model)
            raise UnknownModelError(model, self._catalog.entries)
        return self.entry(entries[0].card.task, model)

    def _run(self, entry: Entry, variant: VariantName) -> Handle:
        loaded = entry.variants.get(variant, Loaded())
        if loaded.handle is not None:
            return loaded.handle
        if variant == "binary" and entry.fallback is not None:
            return entry.fallback
        if loaded.error is None:
            raise NotReadyError(f"{variant} of {entry.label} was not loaded.")
        raise loaded.error.again()

    def _twin(self, entry: Entry) -> Handle:
        twin = entry.card.full
        assert twin is not None
        selected = self._catalog.select(twin)
        if selected is None:
            self._raise_broken(twin)
            raise VariantNotServedError(entry.card.name, "full", entry.card.variants)
        return self._run(selected, "full")

    def _raise_broken(self, model: str) -> None:
        """Raises the error of a model, or of the named version, if it is broken."""
        error = self._broken(model)
        if error is not None:
            raise error

    def _broken(self, model: str) -> ServiceError | None:
        """The error of a model, or of the named version, to be raised; None if it is not broken."""
        broken = self._catalog.broken.items()
        return next((error.again() for label, error in broken if model in (label, label.partition("@")[0])), None)

    def _counterpart(self, full: str) -> str | None:
        """Returns the binary model whose twin is `full`, or None."""
        return next((entry.card.name for entry in self._catalog.all() if entry.card.full == full), None)
