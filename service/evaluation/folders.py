"""Folders of images as evaluation data."""

import os
from collections.abc import Iterator
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"})


class DataError(ValueError):
    """Evaluation data is missing or malformed; the message names the file and the remedy."""


def entries(root: Path) -> Iterator[Path]:
    """Lists the entries of a folder.

    Raises:
        DataError: The folder does not exist.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: name one with <class>/<file>, or with left/ and its measured depth.")
    return root.iterdir()


def files_below(root: Path, *, all_folders: bool = False) -> Iterator[Path]:
    """Yields every file in a folder and its subfolders, in arbitrary order; links are followed.

    Links to a parent folder are skipped.

    Args:
        root: The folder.
        all_folders: Whether a folder that cannot be read is an error; by default it is skipped.

    Raises:
        DataError: A folder cannot be read, and `all_folders` is set.
    """
    # Each folder with the device and inode of its parents, to detect cycles.
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        try:
            status = folder.stat()
            found = list(folder.iterdir())
        except OSError as error:
            if all_folders:
                raise DataError(
                    f"{folder} cannot be read ({error.strerror}): give access to it, or move it elsewhere."
                ) from error
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            continue
        for path in found:
            if os.path.isdir(path):  # noqa: PTH112  pathlib's raises if the target of a link may not be read
                waiting.append((path, above | {identity}))
            else:
                yield path


def is_image(path: Path) -> bool:
    """Whether a path is a file with an image suffix, in upper or lower case."""
    return path.suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(path)  # noqa: PTH113  pathlib's raises: see above
