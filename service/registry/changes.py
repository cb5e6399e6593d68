"""Changes to what is served while requests are answered: load, unload, reload, labels, new versions in the folder.

Each change builds what is new beside what is served, and then serves the new catalog in one step. A request holds the
network that it found; the old one is freed when the last of them is answered, so none is dropped. A version that does
not load, or that has lost a variant which runs, leaves the one that runs in its place, and says why at `/models`.
Changes come one after the other; each blocks for as long as loading takes, so they are called in threads.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.errors import (
    BadParameterError,
    ModelBrokenError,
    ModelInUseError,
    ServiceError,
    UnknownModelError,
    UnknownVersionLabelError,
)
from service.registry.catalog import DEFAULT_LABEL, Catalog
from service.registry.entries import Entry
from service.registry.folder import LABELS_FILE, is_name, last_changed
from service.registry.registry import Registry

log = logging.getLogger(__name__)

#: A version of the folder: it runs, is there and cannot, or is there and is not asked to.
State = Literal["ready", "failed", "unloaded"]


@dataclass(frozen=True, slots=True)
class VersionState:
    """One version of one model.

    Attributes:
        name: Of the model.
        version: Its version.
        state: Whether it runs.
        labels: That stand for it.
        reason: Why it cannot run, or why its latest reload was not taken.
    """

    name: str
    version: str
    state: State
    labels: tuple[str, ...] = ()
    reason: str | None = None


class Changes:
    """Changes a registry.

    Args:
        registry: What is changed; its models have been loaded.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._held_back: set[str] = set()  # unloaded on purpose: not for the folder's watch to load again
        self._labels_wait: set[str] = set()  # models whose file of labels was read and is for a version to come
        self._tried: dict[Path, int] = {}  # folders that were broken: when they were last changed

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One change at a time, and none before the models are loaded."""
        self._registry.check_loaded()
        with self._lock, _folder_read():
            yield

    # ---- what there is ---------------------------------------------------------------------------------------------

    def states(self, name: str | None = None) -> list[VersionState]:
        """Every version of the folder and of memory, or those of one model.

        Raises:
            UnknownModelError: There is no such model.
        """
        catalog, broken = self._registry.catalog, self._registry.broken()
        labels = {entry.label: entry for entry in catalog.all()}
        with _folder_read():
            on_disk = {f"{folder.parent.name}@{folder.name}" for folder in self._registry.folder.versions()}
        found = []
        for label in sorted({*labels, *on_disk, *(label for label in broken if "@" in label)}):
            model, _, version = label.partition("@")
            if name not in (None, model):
                continue
            entry = labels.get(label)
            state: State = "ready" if entry is not None and entry.runs else "failed" if label in broken else "unloaded"
            reason = str(broken[label]) if label in broken else None
            found.append(
                VersionState(model, version, state, tuple(catalog.labels_of(entry.card)) if entry else (), reason)
            )
        if name is not None and not found:
            raise UnknownModelError(name, {label.partition("@")[0] for label in on_disk})
        return found

    # ---- load, unload, reload --------------------------------------------------------------------------------------

    def load(self, name: str, version: str | None = None) -> None:
        """Loads a version, or every one of a model that is not loaded yet, and takes up its labels where they changed.

        Raises:
            UnknownModelError: There is none in the folder.
            ModelBrokenError: It cannot be read, or none of its variants runs; the others are loaded.
        """
        with self._changing():
            known = {path.name: path for path in self._folders(name, version)}
            missing = [path for each, path in known.items() if not self._loaded(name, each)]
            self._all(name, missing)

    def reload(self, name: str, version: str | None = None) -> None:
        """Loads a version again from the folder, or every one of a model, in place of the one that runs.

        Raises:
            UnknownModelError: There is none in the folder.
            ModelBrokenError: It cannot be read or does not run; the one that ran goes on.
        """
        with self._changing():
            self._all(name, self._folders(name, version))

    def unload(self, name: str, version: str | None = None, *, force: bool = False) -> None:
        """Takes a version out of service, or every one of a model.

        Raises:
            UnknownModelError: None is loaded.
            ModelInUseError: Without it the service would not be ready, or another model would answer requests that
                name none; and `force` is not set.
        """
        with self._changing():
            catalog = self._registry.catalog
            entries = [entry for entry in catalog.entries.get(name, ()) if version in (None, entry.card.version)]
            if not entries:
                loaded = [entry.label for entry in catalog.entries.get(name, ())]
                raise UnknownModelError(name if version is None else f"{name}@{version}", loaded or catalog.entries)
            left = catalog
            for entry in entries:
                left = left.without(name, entry.card.version)
            lost = set(self._registry.missing(left)) - set(self._registry.missing(catalog))
            tasks = {entry.card.task for entry in catalog.all()} - {entry.card.task for entry in left.all()}
            lost |= {f"/{task} has no model." for task in tasks}
            task = entries[0].card.task
            before, after = self._registry.default(task), self._registry.default(task, left)
            if name == before and after not in (None, before):
                lost.add(f"/{task} without a model's name would be answered by {after}.")
            if lost and not force:
                raise ModelInUseError(", ".join(entry.label for entry in entries), sorted(lost))
            for entry in entries:
                self._held_back.add(entry.label)
                self._registry.change(self._registry.catalog.without(name, entry.card.version), old=entry)
                log.info("model %s was unloaded", entry.label)

    def _folders(self, name: str, version: str | None) -> list[Path]:
        folder = self._registry.folder
        return folder.versions_of(name) if version is None else [folder.version_of(name, version)]

    def _all(self, name: str, folders: list[Path]) -> None:
        """Loads folders of a model, all of them, and its labels where they changed; then raises the first error."""
        errors = [error for folder in folders if (error := self._take(folder)) is not None]
        self._registry.change(self._with_labels(self._registry.catalog, name))
        if errors:
            raise errors[0]

    def _take(self, folder: Path) -> ServiceError | None:
        """Loads one version and serves it, or returns what is wrong with it."""
        label = f"{folder.parent.name}@{folder.name}"
        registry = self._registry
        old = registry.catalog.version(folder.parent.name, folder.name)
        try:
            entry = Entry(registry.folder.read(folder))
        except ServiceError as error:
            registry.change(registry.catalog.with_broken(label, error))
            return error
        registry.loader.fill(entry, list(entry.card.variants))
        failure = None if entry.runs else next(entry.errors())
        if old is not None and old.runs and (lost := failure or _lost(old, entry)) is not None:
            registry.change(registry.catalog.with_broken(label, lost))
            log.error("model %s was not reloaded, the old one runs on: %s", label, lost)
            return lost
        self._held_back.discard(label)
        registry.change(self._with_labels(registry.catalog.with_entry(entry), entry.card.name), old=old, new=entry)
        if failure is None:
            log.info("model %s was %s", label, "loaded" if old is None else "reloaded")
        return failure

    def _loaded(self, name: str, version: str) -> bool:
        entry = self._registry.catalog.version(name, version)
        return entry is not None and entry.runs

    # ---- labels ----------------------------------------------------------------------------------------------------

    def _with_labels(self, catalog: Catalog, name: str) -> Catalog:
        """A catalog with the labels of a model's file where that changed.

        With a new version and its labels in one step: a file that keeps `default` on the old version was written to
        keep requests from the new one. A `default` for a version that is not loaded waits until it is, and is told
        meanwhile: the name goes on to be answered.
        """
        known = name in catalog.labels
        if known and name not in self._labels_wait and not self._registry.folder.labels_changed(name):
            return catalog
        labelled = self._registry.relabelled(catalog, name)
        if known and labelled.select(name) is None and catalog.select(name) is not None:
            self._labels_wait.add(name)
            version = labelled.labels[name][DEFAULT_LABEL]
            waits = ModelBrokenError(
                name,
                f"{LABELS_FILE}: `default` is for version {version}, which is not loaded; the labels are as they were.",
                remedy=f"Load version {version}, or name another one.",
            )
            return catalog.with_broken(f"{name}/{LABELS_FILE}", waits)
        self._labels_wait.discard(name)
        return labelled

    def set_label(self, name: str, label: str, version: str) -> None:
        """Lets a label stand for a version that runs; the next request that names it goes there.

        Raises:
            UnknownModelError: No such version is loaded.
            ModelBrokenError: It does not run.
            BadParameterError: The label is no name, or that of a version.
        """
        with self._changing():
            catalog = self._registry.catalog
            entry = catalog.version(name, version)
            if entry is None:
                raise UnknownModelError(f"{name}@{version}", (each.label for each in catalog.entries.get(name, ())))
            if not is_name(label) or catalog.version(name, label) is not None:
                raise BadParameterError(
                    "label",
                    f"{label[:64]!r} cannot be a label: it is no name, or the name of a version.",
                    remedy="Use lower-case letters, digits, dots and dashes: stable, canary, default.",
                )
            if not entry.runs:
                raise next(entry.errors())
            labels = {**catalog.labels.get(name, {}), label: version}
            self._registry.change(catalog.with_labels(name, labels))
            log.info("the label %s of %s stands for version %s", label, name, version)

    def remove_label(self, name: str, label: str) -> None:
        """Takes a label away.

        Raises:
            UnknownModelError: There is no such model.
            UnknownVersionLabelError: It has no such label.
        """
        with self._changing():
            catalog = self._registry.catalog
            if name not in catalog.entries:
                raise UnknownModelError(name, catalog.entries)
            labels = dict(catalog.labels.get(name, {}))
            if label not in labels:
                raise UnknownVersionLabelError(name, label, labels)
            del labels[label]
            self._registry.change(catalog.with_labels(name, labels))
            log.info("the label %s of %s was removed", label, name)

    # ---- the folder's watch ----------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Takes up what the folder has new: versions, and files of labels. Raises for no model.

        A version that could not be read is tried again once its folder was changed, because it may have been copied
        at that moment. Versions that were unloaded by hand, or whose folder is gone, are left as they are.
        """
        with self._changing():
            for folder in self._new_folders():
                changed = last_changed(folder)  # before: a copy that ends during the attempt is a change since
                if self._take(folder) is None:
                    self._tried.pop(folder, None)
                else:
                    self._tried[folder] = changed
            for name in self._registry.catalog.entries:
                self._registry.change(self._with_labels(self._registry.catalog, name))

    def _new_folders(self) -> Iterator[Path]:
        try:
            folders = self._registry.folder.versions()
        except OSError as error:
            log.warning("the model folder cannot be read: %s", error.strerror)
            return
        for folder in folders:
            label = f"{folder.parent.name}@{folder.name}"
            if self._loaded(folder.parent.name, folder.name) or label in self._held_back:
                continue
            if self._tried.get(folder) != last_changed(folder):
                yield folder


def _lost(old: Entry, new: Entry) -> ServiceError | None:
    """Why a variant that runs would not run any more; None where all of them would."""
    for variant, loaded in new.variants.items():
        before = old.variants.get(variant)
        if loaded.error is not None and before is not None and before.handle is not None:
            return loaded.error
    return None


@contextmanager
def _folder_read() -> Iterator[None]:
    """Tells in words that the folder of models cannot be read: a volume that went, or rights that were taken."""
    try:
        yield
    except OSError as error:
        raise ModelBrokenError(
            "the folder of models",
            f"it cannot be read: {error.strerror}.",
            remedy="Check the folder that BIREAL_MODEL_DIR names; what is in memory goes on being served.",
        ) from error
