"""The rules by which a request finds its network, on a catalog.

* no model named: the task's default; `NAME` is its default version; `NAME@VERSION` and `NAME@LABEL` that one;
* no variant named: the default variant if the model has it, else the model's own;
* `full` of a binary model is its twin, named by the card; `binary` of a full-precision model is an error that names
  the binary counterpart;
* `binary` where the op cannot load is an error; with `fallback=reference` the reference runs, and the handle says so.
"""

from service.card import VARIANTS, TaskName, VariantName
from service.errors import (
    NotReadyError,
    OpUnavailableError,
    UnknownModelError,
    UnknownVariantError,
    VariantNotServedError,
)
from service.registry.catalog import Catalog
from service.registry.entries import Entry, Handle, Loaded
from service.settings import Settings


class Resolution:
    """The rules, for one state of what is served.

    Args:
        settings: Defaults and the fallback policy.
        catalog: What is served.
    """

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings, self._catalog = settings, catalog

    def default(self, task: TaskName) -> str | None:
        """Name of the model that answers a task when none is named; None when there is none.

        The one in the settings. Where that was left as it is and is not served, the only (binary) model of the task.
        """
        setting = f"default_{task}_model"
        name: str = getattr(self._settings, setting)
        if name in self._catalog.entries or setting in self._settings.model_fields_set:
            return name
        cards = [versions[0].card for versions in self._catalog.entries.values() if versions[0].card.task == task]
        candidates = [card.name for card in cards if card.precision == "binary"] or [card.name for card in cards]
        return candidates[0] if len(candidates) == 1 else None

    def default_remedy(self, task: TaskName) -> str:
        """What the operator can do about a task without a default."""
        names = sorted({entry.card.name for entry in self._catalog.all() if entry.card.task == task})
        if not names:
            return f"Put a {task} model into the folder that BIREAL_MODEL_DIR names."
        return f"Set BIREAL_DEFAULT_{task.upper()}_MODEL to one of: {', '.join(names)}."

    def handle(self, task: TaskName, model: str | None, variant: str | None) -> Handle:
        """The network that runs a request; see `Registry.resolve`."""
        if variant is not None and variant not in VARIANTS:
            raise UnknownVariantError(variant)
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
        """The model version that a request means; see `Registry.resolve`."""
        named = self.default(task) if model is None else model
        if named is None:
            raise NotReadyError(f"No model for /{task} is being served.", remedy=self.default_remedy(task))
        name, at, version = named.partition("@")
        # `NAME@` is what is left of `NAME@$VERSION` where that was not set: no version, rather than any.
        entry = None if at and not version else self._catalog.select(name, version)
        if entry is not None and entry.card.task == task:
            return entry
        if entry is None:
            self._raise_broken(named)
        available = sorted(entry.card.name for entry in self._catalog.all() if entry.card.task == task)
        if at and any(entry.card.task == task for entry in self._catalog.entries.get(name, ())):
            versions = [entry.card.version for entry in self._catalog.entries[name]]
            available = [f"{name}@{each}" for each in (*versions, *self._catalog.labels.get(name, ()))]
        elsewhere = next((entry.card.task for entry in self._catalog.entries.get(name, ())), None)
        raise UnknownModelError(named, dict.fromkeys(available), other_task=None if elsewhere == task else elsewhere)

    def any_task(self, model: str) -> Entry:
        """The model version of a name, whatever its task; see `Registry.find`."""
        entries = self._catalog.entries.get(model.partition("@")[0])
        if not entries:
            self._raise_broken(model)
            raise UnknownModelError(model, self._catalog.entries)
        return self.entry(entries[0].card.task, model)

    def fallback(self, entry: Entry, variant: VariantName) -> Handle | None:
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

    def _run(self, entry: Entry, variant: VariantName) -> Handle:
        loaded = entry.variants.get(variant, Loaded())
        if loaded.handle is not None:
            return loaded.handle
        substitute = self.fallback(entry, variant)
        if substitute is not None:
            return substitute
        if loaded.error is None:
            raise NotReadyError(f"{variant} of {entry.label} was not loaded.")
        raise loaded.error

    def _twin(self, entry: Entry) -> Handle:
        twin = entry.card.full
        assert twin is not None
        selected = self._catalog.select(twin)
        if selected is None:
            self._raise_broken(twin)
            raise VariantNotServedError(entry.card.name, "full", entry.card.variants)
        return self._run(selected, "full")

    def _raise_broken(self, model: str) -> None:
        """Raises what is wrong with a model, or with the version that is named, if it could not be read."""
        for label, error in self._catalog.broken.items():
            if model in (label, label.partition("@")[0]):
                raise error

    def _counterpart(self, full: str) -> str | None:
        """The binary model whose twin is `full`."""
        return next((entry.card.name for entry in self._catalog.all() if entry.card.full == full), None)
