"""Changes to the served models at run time: load, unload, reload, labels, and new versions in the folder.

Each change prepares the new networks while the old ones are served, and then replaces the catalog in one step. Requests
keep the network that they have resolved, and it is freed after the last of them, so no request is dropped. If a new
version does not load, or lacks a variant that runs now, the running one is kept and `/models` shows the error. Changes
are made one at a time. Each blocks as long as loading takes, so the event loop calls them through `Changes.apart`.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, ParamSpec

from service.errors import (
    BadParameterError,
    ModelBrokenError,
    ModelInUseError,
    NotReadyError,
    ServiceError,
    UnknownModelError,
    UnknownVersionLabelError,
)
from service.registry.catalog import DEFAULT_LABEL, Catalog
from service.registry.entries import Entry
from service.registry.folder import LABELS_FILE, Fingerprint, Listing, fingerprint, is_name
from service.registry.registry import Registry

log = logging.getLogger(__name__)

P = ParamSpec("P")

#: State of a version: it runs, it failed to load, or it is in the folder but not loaded.
State = Literal["ready", "failed", "unloaded"]


@dataclass(frozen=True, slots=True)
class VersionState:
    """State of one version of a model.

    Attributes:
        name: Name of the model.
        version: The version.
        state: Whether it runs.
        labels: Its labels.
        reason: Why it cannot run, or why its latest reload failed.
    """

    name: str
    version: str
    state: State
    labels: tuple[str, ...] = ()
    reason: str | None = None


class Changes:
    """Changes the catalog of a registry.

    Args:
        registry: The registry; changes are only possible after its models have been loaded.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._held_back: set[str] = set()  # unloaded on purpose: `refresh` must not load them again
        self._labels_wait: set[str] = set()  # models whose labels file refers to a version that is not loaded yet
        self._tried: dict[Path, Fingerprint] = {}  # of folders that failed to load
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bireal-changes")

    async def apart(self, change: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Makes a change in the thread of all changes, and awaits it.

        In asyncio's pool, a few changes that wait for each other would occupy every thread. A change whose caller is
        cancelled before it has begun is not made.

        Args:
            change: A method of this object.
            *args: Its arguments.
            **kwargs: Its named arguments.

        Raises:
            NotReadyError: The service is shutting down.
            ServiceError: Whatever the change raises.
        """
        self._check_open()
        await asyncio.get_running_loop().run_in_executor(self._thread, partial(change, *args, **kwargs))

    def close(self) -> None:
        """Stops the changes: those that wait are dropped, and one that loads ends after its current variant. Blocks."""
        self._registry.stop_loading()
        self._thread.shutdown(cancel_futures=True)

    def _check_open(self) -> None:
        if self._registry.closing:
            raise _closing()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Allows one change at a time, none before the models are loaded, and none once the registry is closing."""
        self._registry.check_loaded()
        with self._lock, _folder_read():
            self._check_open()
            yield

    # ---- state -----------------------------------------------------------------------------------------------------

    def states(self, name: str | None = None, *, must_read: bool = True) -> list[VersionState]:
        """Lists every version in the folder or in memory, of all models or of one.

        Raises:
            UnknownModelError: There is no such model.
            ModelBrokenError: The folder cannot be read; without `must_read`, the versions in memory are listed then.
        """
        catalog, broken = self._registry.catalog, self._registry.broken()
        labels = {entry.label: entry for entry in catalog.all()}
        on_disk: set[str] = set()
        with _folder_read() if must_read else suppress(OSError):
            on_disk = {f"{folder.parent.name}@{folder.name}" for folder in self._registry.listing().versions}
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
        """Loads a version, or all versions of a model that are not loaded yet, and applies changed labels.

        Raises:
            UnknownModelError: The folder contains no such model or version.
            ModelBrokenError: A version cannot be read, or none of its variants runs; other versions are loaded.
        """
        with self._changing():
            known = {path.name: path for path in self._folders(name, version)}
            missing = [path for each, path in known.items() if not self._loaded(name, each)]
            self._load_all(name, missing)

    def reload(self, name: str, version: str | None = None) -> None:
        """Loads a version, or all versions of a model, again from the folder, and replaces the running ones.

        Raises:
            UnknownModelError: The folder contains no such model or version.
            ModelBrokenError: A version cannot be read or does not run; the running one is kept.
        """
        with self._changing():
            self._load_all(name, self._folders(name, version))

    def unload(self, name: str, version: str | None = None, *, force: bool = False) -> None:
        """Unloads a version, or all versions of a model. One that failed to load and was deleted is forgotten.

        Raises:
            UnknownModelError: No such version is loaded, and none was forgotten.
            ModelInUseError: Without it, the service would not be ready or another model would become the default, and
                `force` is not set.
        """
        with self._changing():
            failed = self._registry.broken().keys()
            with suppress(OSError):  # models in memory can be unloaded however their folder fares
                self._follow(self._registry.listing())
            catalog = self._registry.catalog
            entries = [entry for entry in catalog.entries.get(name, ()) if version in (None, entry.card.version)]
            if not entries:
                if any(_is_of(label, name, version) for label in failed - self._registry.broken().keys()):
                    return
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
                lost.add(f"{after} would answer requests to /{task} that name no model.")
            if lost and not force:
                raise ModelInUseError(", ".join(entry.label for entry in entries), sorted(lost))
            for entry in reversed(entries):  # the newest last, so that no older one takes its requests meanwhile
                self._held_back.add(entry.label)
                self._registry.change(self._registry.catalog.without(name, entry.card.version), old=entry)
                log.info("model %s was unloaded", entry.label)

    def _folders(self, name: str, version: str | None) -> list[Path]:
        folder = self._registry.folder
        return folder.versions_of(name) if version is None else [folder.version_of(name, version)]

    def _load_all(self, name: str, folders: list[Path]) -> None:
        """Loads all given folders of a model and applies changed labels, then raises the first error."""
        errors = [error for folder in folders if (error := self._load_version(folder)) is not None]
        self._registry.change(self._with_labels(self._registry.catalog, name))
        if errors:
            raise errors[0].again()

    def _load_version(self, folder: Path) -> ServiceError | None:
        """Loads one version and serves it, or returns its error."""
        label = f"{folder.parent.name}@{folder.name}"
        registry = self._registry
        old = registry.catalog.version(folder.parent.name, folder.name)
        try:
            entry = Entry(registry.read(folder, beside=registry.catalog))
        except ServiceError as error:
            registry.change(registry.catalog.with_broken(label, error))
            return error
        registry.loader.fill(entry, list(entry.card.variants), stop=lambda: registry.closing)
        if registry.closing:  # what was loaded is served no more, and some variants may be missing
            entry.close()
            return _closing()
        failure = None if entry.runs else next(entry.errors())
        if old is not None and old.runs and (lost := failure or _lost_variant(old, entry)) is not None:
            registry.change(registry.catalog.with_broken(label, lost))
            log.error("model %s was not reloaded, the previous one is kept: %s", label, lost)
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
        """Returns a catalog with a model's labels from its labels file, if that has changed.

        The labels take effect in the same step as a new version, so that a `default` label on the old version keeps
        requests away from the new one from the start. While `default` refers to a version that is not loaded, the old
        labels are kept, so that requests are still answered, and the error is shown. So are those of a model whose
        folder is away, for example while a volume is not mounted.
        """
        known, folder = name in catalog.labels, self._registry.folder
        if known and not (folder.has(name) and (name in self._labels_wait or folder.labels_changed(name))):
            return catalog
        labelled = self._registry.relabelled(catalog, name)
        if known and labelled.select(name) is None and catalog.select(name) is not None:
            self._labels_wait.add(name)
            version = labelled.labels[name][DEFAULT_LABEL]
            waits = ModelBrokenError(
                name,
                f"{LABELS_FILE}: `default` refers to version {version}, which is not loaded; the old labels are kept.",
                remedy=f"Load version {version}, or set `default` to another one.",
            )
            return catalog.with_broken(f"{name}/{LABELS_FILE}", waits)
        self._labels_wait.discard(name)
        return labelled

    def set_label(self, name: str, label: str, version: str) -> None:
        """Assigns a label to a version that runs, for all requests from now on.

        Raises:
            UnknownModelError: No such version is loaded.
            ModelBrokenError: The version does not run.
            BadParameterError: The label is not a valid name, or is the name of a version.
        """
        with self._changing():
            catalog = self._registry.catalog
            entry = catalog.version(name, version)
            if entry is None:
                raise UnknownModelError(f"{name}@{version}", (each.label for each in catalog.entries.get(name, ())))
            if not is_name(label) or catalog.version(name, label) is not None:
                raise BadParameterError(
                    "label",
                    f"{label[:64]!r} cannot be a label: it is not a valid name, or it is the name of a version.",
                    remedy="Use lower-case letters, digits, dots and dashes: stable, canary, default.",
                )
            if not entry.runs:
                raise next(entry.errors()).again()
            labels = {**catalog.labels.get(name, {}), label: version}
            self._registry.change(catalog.with_labels(name, labels))
            log.info("the label %s of %s was set to version %s", label, name, version)

    def remove_label(self, name: str, label: str) -> None:
        """Removes a label.

        Raises:
            UnknownModelError: There is no such model.
            UnknownVersionLabelError: The model has no such label.
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

    # ---- watching the folder ---------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Loads new versions and changed labels from the folder. A broken model raises nothing.

        A version that failed to load is retried when its folder changes, because it may have been read while it was
        being copied, and forgotten when its folder was removed. Versions that were unloaded by request are not touched,
        and neither are loaded ones whose folder was removed.
        """
        with self._changing():
            for folder in self._new_folders():
                before = fingerprint(folder)  # read it first, so that a change during the attempt causes a retry
                if self._load_version(folder) is None:
                    self._tried.pop(folder, None)
                else:
                    self._tried[folder] = before
            for name in self._registry.catalog.entries:
                self._registry.change(self._with_labels(self._registry.catalog, name))

    def _new_folders(self) -> Iterator[Path]:
        try:
            listing = self._registry.listing()
        except OSError as error:
            log.warning("the model folder cannot be read: %s", error.strerror)
            return
        self._follow(listing)
        for folder in listing.versions:
            label = f"{folder.parent.name}@{folder.name}"
            if self._loaded(folder.parent.name, folder.name) or label in self._held_back:
                continue
            if self._tried.get(folder) != fingerprint(folder):
                yield folder

    def _follow(self, listing: Listing) -> None:
        """Forgets what is not in the folder any more and does not run, and notes unreadable subfolders.

        Otherwise a broken version that was deleted would be reported, and answer 503, until the service stops.
        """
        versions = {f"{folder.parent.name}@{folder.name}" for folder in listing.versions}
        for entry in self._registry.catalog.all():
            if not entry.runs and entry.label not in versions and entry.card.name not in listing.unreadable:
                self._registry.change(self._registry.catalog.without(entry.card.name, entry.card.version), old=entry)
                log.info("model %s, which does not run, is gone from the folder of models: it was dropped", entry.label)
        catalog = self._registry.catalog
        names = {folder.parent.name for folder in listing.versions} | listing.unreadable.keys() | catalog.entries.keys()
        for label in catalog.broken.keys() - versions - listing.unreadable.keys():
            name, _, version = label.partition("@")
            if version:
                gone = catalog.version(name, version) is None and name not in listing.unreadable
            else:  # of a labels file, or of a subfolder that can be read by now
                gone = label.removesuffix(f"/{LABELS_FILE}") not in names or not label.endswith(f"/{LABELS_FILE}")
            if gone:
                catalog = catalog.with_broken(label, None)
                log.info("the error of %s was dropped: it is gone from the folder of models, or can be read", label)
        for name, error in listing.unreadable.items():
            if name not in catalog.broken:
                log.warning("the folder %s was skipped: %s", name, error)
            catalog = catalog.with_broken(name, error)
        for folder in self._tried.keys() - set(listing.versions):
            del self._tried[folder]
        self._registry.change(catalog)


def _is_of(label: str, name: str, version: str | None) -> bool:
    """Whether a label of `Catalog.broken` is of a version, or of any version of a model."""
    return label == f"{name}@{version}" if version is not None else label.partition("@")[0] == name


def _lost_variant(old: Entry, new: Entry) -> ServiceError | None:
    """Returns the error of a variant that runs in `old` but not in `new`, or None."""
    for variant, loaded in new.variants.items():
        before = old.variants.get(variant)
        if loaded.error is not None and before is not None and before.handle is not None:
            return loaded.error
    return None


def _closing() -> NotReadyError:
    return NotReadyError("The server is shutting down and changes no models.")


@contextmanager
def _folder_read() -> Iterator[None]:
    """Turns an OSError of the model folder into a ModelBrokenError, for example after a volume was unmounted."""
    try:
        yield
    except OSError as error:
        raise ModelBrokenError(
            "the folder of models",
            f"it cannot be read: {error.strerror}.",
            remedy="Check the folder that BIREAL_MODEL_DIR names. Models in memory are still served.",
        ) from error
