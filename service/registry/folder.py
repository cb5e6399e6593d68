"""The folder of models on disk: `<name>/<version>/` with card and file, and `<name>/labels.yaml`.

Clients send names, so paths are only built from plain names, and the targets of links must lie inside the folder. This
excludes `..`, absolute paths and links to the outside.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from service.card import CARD_FILE, Card
from service.errors import ModelBrokenError, UnknownModelError
from service.yaml_text import parse_yaml

LABELS_FILE = "labels.yaml"
#: See `fingerprint`.
Fingerprint = tuple[tuple[str, int, int], ...]

_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def is_name(text: str) -> bool:
    """Whether a text is a valid name of a model, a version or a label, and thus not a path."""
    return _SLUG.fullmatch(text) is not None


class Listing(NamedTuple):
    """What a folder of models holds.

    Attributes:
        versions: Every `<name>/<version>` folder, sorted.
        unreadable: The error of each `<name>` folder that cannot be listed, by its name.
    """

    versions: list[Path]
    unreadable: dict[str, ModelBrokenError]


class ModelFolder:
    """A folder of models.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._labels_read: dict[str, Fingerprint] = {}  # of each labels file when it was last read

    def listing(self) -> Listing:
        """Lists every `<name>/<version>` folder; files and hidden folders are skipped.

        A subfolder that cannot be read, such as the `lost+found` of a volume, does not hide the others.

        Raises:
            OSError: The folder itself cannot be read.
        """
        versions: list[Path] = []
        unreadable: dict[str, ModelBrokenError] = {}
        for folder in _folders(self._root):
            try:
                versions += _folders(folder)
            except OSError as error:
                unreadable[folder.name] = _unreadable(folder.name, error)
        return Listing(versions, unreadable)

    def names(self) -> list[str]:
        """Lists the names of the models that have a version; see `listing`."""
        return list(dict.fromkeys(version.parent.name for version in self.listing().versions))

    def versions_of(self, name: str) -> list[Path]:
        """Lists the folders of a model's versions, at least one.

        Raises:
            UnknownModelError: There is no such model, or it has no version.
            ModelBrokenError: Its folder cannot be read.
            OSError: The folder of models cannot be read.
        """
        try:
            versions = _folders(self._root / name) if is_name(name) else []
        except OSError as error:
            self.listing()  # raises if no model can be read, and not only this one
            raise _unreadable(name, error) from error
        if not versions:
            self._root.stat()  # raises if there is no folder of models
            raise UnknownModelError(name, self.names())
        return versions

    def version_of(self, name: str, version: str) -> Path:
        """Returns the folder of a version.

        Raises:
            UnknownModelError: There is no such version.
        """
        folders = {path.name: path for path in self.versions_of(name)}
        if version not in folders:
            raise UnknownModelError(f"{name}@{version}", [f"{name}@{other}" for other in folders])
        return folders[version]

    def read(self, folder: Path) -> Card:
        """Loads a card, and checks that its name and version match the folder and that no link leads outside.

        Raises:
            ModelBrokenError: One of these checks failed.
            CardError: The card cannot be read.
        """
        label = f"{folder.parent.name}@{folder.name}"
        self._check_inside(folder, label)
        self._check_inside(folder / CARD_FILE, label)
        card = Card.load(folder)
        if (card.name, card.version) != (folder.parent.name, folder.name):
            raise ModelBrokenError(
                label,
                f"the card is for model {card.name!r}, version {card.version!r}, which does not match its folder.",
                remedy="Rename the folder to <name>/<version>, or correct the card.",
            )
        self._check_inside(card.path, label)
        return card

    def labels(self, name: str) -> Mapping[str, str]:
        """Reads the labels in a model's `labels.yaml`; empty without such a file.

        Raises:
            ModelBrokenError: The file cannot be read, or is not a mapping of labels to versions.
        """
        file = self._root / name / LABELS_FILE
        self._labels_read[name] = fingerprint(file)
        try:
            content = parse_yaml(file.read_text(encoding="utf-8"), as_text=True)
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise _bad_labels(name, f"it cannot be read: {type(error).__name__}") from error
        if not isinstance(content, dict):
            raise _bad_labels(name, "it is not a mapping")
        for word in (*content, *content.values()):
            if not (isinstance(word, str) and is_name(word)):
                raise _bad_labels(name, f"{str(word)[:64]!r} is not a valid name")
        return content

    def labels_changed(self, name: str) -> bool:
        """Whether a model's `labels.yaml` has changed since it was read."""
        return fingerprint(self._root / name / LABELS_FILE) != self._labels_read.get(name, ())

    def has(self, name: str) -> bool:
        """Whether a model has a folder, or may have one."""
        return _is_folder(self._root / name)

    def _check_inside(self, path: Path, label: str) -> None:
        """Rejects a path that links lead out of the model folder. Links inside are allowed: Kubernetes uses them."""
        try:
            inside = path.resolve(strict=True).is_relative_to(self._root.resolve())
        except (OSError, RuntimeError):  # missing, or a cycle of links: reading it will raise an error
            return
        if not inside:
            raise ModelBrokenError(
                label,
                f"{path.name} is a link that leads out of the folder of models.",
                remedy="Copy the model into the folder, or set BIREAL_MODEL_DIR to the folder that holds all of it.",
            )


def fingerprint(path: Path) -> Fingerprint:
    """Names, modification times and sizes of a file, or of a folder and its direct entries; empty if there is none.

    Times alone do not show a change where all files have the same one, as those of an archive may. Inode numbers are
    left out, because some network file systems give a file a new one now and then.
    """
    try:
        inside = sorted(path.iterdir()) if path.is_dir() else []
        found = [(each.name, each.stat()) for each in (path, *inside)]
    except OSError:
        return ()
    return tuple((name, status.st_mtime_ns, status.st_size) for name, status in found)


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return [path for path in sorted(parent.iterdir()) if not path.name.startswith((".", "_")) and _is_folder(path)]


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder, or may be one: who then reads it learns why that cannot be told."""
    try:
        return path.is_dir()
    except OSError:
        return True


def _unreadable(name: str, error: OSError) -> ModelBrokenError:
    return ModelBrokenError(
        name,
        f"its folder cannot be read: {error.strerror or type(error).__name__}.",
        remedy="Let the service read the folder, or remove it; the other models are not affected.",
    )


def _bad_labels(name: str, what: str) -> ModelBrokenError:
    return ModelBrokenError(
        name,
        f"{LABELS_FILE}: {what}.",
        remedy='Write one line per label, such as `stable: "1"`. `default` is the version of the name alone.',
    )
