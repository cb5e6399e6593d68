"""The files that a command line names: images, their ground truth and their folders."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from service.card import ClassLabel
from service.errors import BadParameterError, BrokenImageError
from service.evaluation import (
    IMAGE_SUFFIXES,
    TRUTH_FOLDERS,
    Camera,
    DataError,
    DepthFrame,
    files_below,
    folders_to_give,
    is_image,
)

T = TypeVar("T")


class FileError(Exception):
    """One file of many failed, while others may succeed. The text says why."""


#: Suffixes of image formats that are not supported.
_OTHER_PICTURES = frozenset({".heic", ".heif", ".avif", ".tif", ".tiff", ".svg", ".jxl", ".jp2", ".dng", ".raw"})


def printable(text: Path | str) -> str:
    r"""A path, or a sentence about one, with bytes that are not UTF-8 shown as `\xe9`: JSON cannot carry them."""
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def images_of(path: Path) -> list[Path]:
    """A file (or a pipe) itself, or every image below a folder, sorted and recognised by suffix.

    The measured depth of road scenes is stored as PNG but is not an image, so its folders are skipped.

    Raises:
        BadParameterError: The path does not exist, or there is no image below it.
        DataError: A folder below it cannot be read.
        OSError: The folder cannot be read.
    """
    if path.exists() and not path.is_dir():
        return [path]
    if not path.is_dir():
        raise BadParameterError("path", f"{printable(path)} does not exist.", remedy="Check the path.")
    next(path.iterdir(), None)
    found = files_below(path, all_folders=True)  # or their images would be missing without a word
    images = sorted(file for file in found if is_image(file) and not _is_measured_depth(file, path))
    if not images:
        raise BadParameterError(
            "path",
            f"There is no image in {printable(path)}.",
            remedy=f"The names of images end in {', '.join(sorted(IMAGE_SUFFIXES))}.",
        )
    return images


def _is_measured_depth(file: Path, root: Path) -> bool:
    return any(part in TRUTH_FOLDERS for part in file.relative_to(root).parts[:-1])


def say_passed_over(path: Path) -> None:
    """Notes on standard error which images of a folder are skipped because of their format."""
    files = files_below(path) if path.is_dir() else ()
    found = Counter(file.suffix.lower() for file in files if file.suffix.lower() in _OTHER_PICTURES)
    if found:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(found.items()))
        print(f"note: skipped {kinds}: convert them to one of {', '.join(sorted(IMAGE_SUFFIXES))}", file=sys.stderr)


def is_depth_folder(folder: Path) -> bool:
    """Whether a folder is a depth data set: it, or one of its subfolders, contains `left/`."""
    return any(path.is_dir() for path in (folder / "left", *folder.glob("*/left")))


def classes_by_folder(classes: Sequence[ClassLabel]) -> dict[str, ClassLabel]:
    """The class for each casefolded folder name: its WordNet id, or its name if no other class has the same."""
    named = Counter(label.name.casefold() for label in classes)  # ImageNet has two cranes
    by_name = {label.name.casefold(): label for label in classes if named[label.name.casefold()] == 1}
    return by_name | {label.wnid.casefold(): label for label in classes}


def check_scenes(folder: Path) -> None:
    """Checks that road scenes are not mistaken for photos because they lie deeper than the command looks.

    Raises:
        BadParameterError: The folder has road scenes further down.
    """
    meant = [] if is_depth_folder(folder) else folders_to_give(folder)
    if meant:
        raise BadParameterError(
            "path",
            f"{printable(folder)} has no left/ in it or in a subfolder, but it has road scenes further down.",
            remedy=f"Name {' or '.join(map(printable, meant))}, or add --task classify to treat the images as photos.",
        )


def spread(items: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` of the items, evenly spread, so that all classes and drives are represented."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[index * len(items) // limit] for index in range(limit)]


def read(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        BrokenImageError: The file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise BrokenImageError(
            f"{printable(path)} cannot be read: {error.strerror}.", remedy="Check the path and its permissions."
        ) from error


def taken_by(frame: DepthFrame) -> Camera:
    """The camera of one image of many.

    Raises:
        FileError: The image cannot be read.
        DataError: The folder's camera is not known; all its images need it.
    """
    try:
        return frame.camera()
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise FileError(f"{frame.path} has too many pixels to be read.") from error
    except UnidentifiedImageError as error:
        raise FileError(f"{frame.path} cannot be read as an image.") from error
    except OSError as error:
        raise FileError(f"{frame.path} cannot be read: {error.strerror or error}.") from error
    except (SyntaxError, ValueError) as error:  # of Pillow, about damaged headers
        raise FileError(f"{frame.path} cannot be read as an image: {error}.") from error


def truth_of(frame: DepthFrame) -> npt.NDArray[np.float32]:
    """The ground truth of one image of many: float32 [H, W], metres, 0 where there is none.

    Raises:
        FileError: It is damaged, or not a 16-bit grey PNG.
    """
    try:
        return frame.truth()
    except DataError as error:
        raise FileError(str(error)) from error


def check_size(frame: DepthFrame, picture_m: npt.NDArray[np.float32], truth_m: npt.NDArray[np.float32]) -> None:
    """Raises FileError if the ground truth and the image differ in size."""
    if picture_m.shape != truth_m.shape:
        raise FileError(f"{frame.truth_path} and {frame.path} differ in size.")
