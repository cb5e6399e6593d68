"""What evaluation data is made of: folders of images."""

import os
from collections.abc import Iterator
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"})


class DataError(ValueError):
    """Evaluation data is missing or not as described; the message names the file and the remedy."""


def entries(root: Path) -> Iterator[Path]:
    """What lies in a folder.

    Raises:
        DataError: There is no such folder.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: name one with <class>/<file>, or with left/ and its measured depth.")
    return root.iterdir()


def files_below(root: Path) -> Iterator[Path]:
    """Every file in a folder and in those below it, in no order; links are followed.

    A link to a folder that it lies in is passed over, as is a folder that cannot be read.
    """
    # With the folders that lead to each, by device and inode.
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        try:
            status = folder.stat()
            found = list(folder.iterdir())
        except OSError:
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            continue
        for path in found:
            if os.path.isdir(path):  # noqa: PTH112  no where pathlib's raises: what a link points to may be forbidden
                waiting.append((path, above | {identity}))
            else:
                yield path


def is_image(path: Path) -> bool:
    """Whether a file is an image, by its suffix in any case."""
    return path.suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(path)  # noqa: PTH113  a forbidden link is none
