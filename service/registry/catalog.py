"""An immutable snapshot of what is served, so that readers see a consistent state while models are changed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from service.card import Card, version_key
from service.errors import ModelBrokenError, ServiceError, kept
from service.registry.entries import Entry

#: The label of the version that a model's name without a version refers to.
DEFAULT_LABEL = "default"


@dataclass(frozen=True, slots=True)
class Catalog:
    """Models with their versions and labels. Immutable: changes return a new catalog.

    Attributes:
        entries: Versions of each model, newest first.
        labels: For each model, the version of each label.
        broken: Errors of what cannot be read, loaded or reloaded, by `name@version` or labels file.
    """

    entries: Mapping[str, tuple[Entry, ...]] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    broken: Mapping[str, ServiceError] = field(default_factory=dict)

    def all(self) -> Iterator[Entry]:
        """Iterates over every version of every model."""
        for versions in self.entries.values():
            yield from versions

    def version(self, name: str, version: str) -> Entry | None:
        """Returns a version of a model, or None."""
        return next((entry for entry in self.entries.get(name, ()) if entry.card.version == version), None)

    def select(self, name: str, version: str = "") -> Entry | None:
        """Returns the version that a request refers to, or None.

        Args:
            name: Name of the model.
            version: A version or a label. If empty, the version labelled `default` if there is one; else the newest
                version that runs, so that a broken new version does no harm; else the newest version.
        """
        labels = self.labels.get(name, {})
        if version:
            return self.version(name, version) or self.version(name, labels.get(version, ""))
        if DEFAULT_LABEL in labels:
            return self.version(name, labels[DEFAULT_LABEL])
        versions = self.entries.get(name, ())
        return next((entry for entry in versions if entry.runs), versions[0] if versions else None)

    def labels_of(self, card: Card) -> list[str]:
        """Returns the labels of a version."""
        return sorted(label for label, version in self.labels.get(card.name, {}).items() if version == card.version)

    def check_task(self, card: Card) -> None:
        """Checks that a version has the task of the model's other versions, because requests find a name by its task.

        Raises:
            ModelBrokenError: It has another task.
        """
        for other in self.entries.get(card.name, ()):
            if other.card.version != card.version and other.card.task != card.task:
                raise ModelBrokenError(
                    f"{card.name}@{card.version}",
                    f"its card has the task {card.task}, but {other.label} the task {other.card.task}.",
                    remedy="Give it another name: all versions of a model have the same task.",
                )

    # ---- changes ---------------------------------------------------------------------------------------------------

    def with_entry(self, entry: Entry) -> "Catalog":
        """Returns a catalog with a version added or replaced."""
        others = [other for other in self.entries.get(entry.card.name, ()) if other.card.version != entry.card.version]
        versions = sorted([*others, entry], key=lambda each: version_key(each.card.version), reverse=True)
        return replace(
            self,
            entries={**self.entries, entry.card.name: tuple(versions)},
            broken={label: error for label, error in self.broken.items() if label != entry.label},
        )

    def without(self, name: str, version: str) -> "Catalog":
        """Returns a catalog without a version."""
        left = tuple(entry for entry in self.entries.get(name, ()) if entry.card.version != version)
        entries = {other: versions for other, versions in self.entries.items() if other != name}
        if left:
            entries[name] = left
        return replace(
            self,
            entries=entries,
            broken={label: error for label, error in self.broken.items() if label != f"{name}@{version}"},
        )

    def with_labels(self, name: str, labels: Mapping[str, str]) -> "Catalog":
        """Returns a catalog with other labels for a model."""
        return replace(self, labels={**self.labels, name: dict(labels)})

    def with_broken(self, label: str, error: ServiceError | None) -> "Catalog":
        """Returns a catalog with the error of something that cannot be served, or without one if `error` is None."""
        broken = {other: its for other, its in self.broken.items() if other != label}
        return replace(self, broken=broken if error is None else {**broken, label: kept(error)})
