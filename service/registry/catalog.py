"""What is served at one moment, as a value: who reads it sees one state, whatever is loaded or taken away meanwhile."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from service.card import Card
from service.errors import ServiceError
from service.registry.entries import Entry, version_key

#: The label that says which version a model's name alone stands for.
DEFAULT_LABEL = "default"


@dataclass(frozen=True, slots=True)
class Catalog:
    """Models, their versions and labels. Never changed: each change makes another one.

    Attributes:
        entries: Versions of each model, newest first.
        labels: Of each model: the version that each label stands for.
        broken: What cannot be read, loaded or reloaded, by `name@version` (or the file of labels), and why.
    """

    entries: Mapping[str, tuple[Entry, ...]] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    broken: Mapping[str, ServiceError] = field(default_factory=dict)

    def all(self) -> Iterator[Entry]:
        """Every version of every model."""
        for versions in self.entries.values():
            yield from versions

    def version(self, name: str, version: str) -> Entry | None:
        """A version of a model."""
        return next((entry for entry in self.entries.get(name, ()) if entry.card.version == version), None)

    def select(self, name: str, version: str = "") -> Entry | None:
        """The version that a request means.

        Args:
            name: Of the model.
            version: A version or a label. Empty: the label `default` where there is one; else the newest version that
                has a network, so that a broken new version takes down nobody; else the newest.
        """
        labels = self.labels.get(name, {})
        if version:
            return self.version(name, version) or self.version(name, labels.get(version, ""))
        if DEFAULT_LABEL in labels:
            return self.version(name, labels[DEFAULT_LABEL])
        versions = self.entries.get(name, ())
        return next((entry for entry in versions if entry.runs), versions[0] if versions else None)

    def labels_of(self, card: Card) -> list[str]:
        """The labels of one version."""
        return sorted(label for label, version in self.labels.get(card.name, {}).items() if version == card.version)

    # ---- changes ---------------------------------------------------------------------------------------------------

    def with_entry(self, entry: Entry) -> "Catalog":
        """With a version that is new, or in place of the one that has its name."""
        others = [other for other in self.entries.get(entry.card.name, ()) if other.card.version != entry.card.version]
        versions = sorted([*others, entry], key=lambda each: version_key(each.card.version), reverse=True)
        return replace(
            self,
            entries={**self.entries, entry.card.name: tuple(versions)},
            broken={label: error for label, error in self.broken.items() if label != entry.label},
        )

    def without(self, name: str, version: str) -> "Catalog":
        """Without a version."""
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
        """With other labels of a model."""
        return replace(self, labels={**self.labels, name: dict(labels)})

    def with_broken(self, label: str, error: ServiceError | None) -> "Catalog":
        """With something that cannot be served; without it where there is no error."""
        broken = {other: kept for other, kept in self.broken.items() if other != label}
        return replace(self, broken=broken if error is None else {**broken, label: error})
