"""What evaluation data is made of: folders of images."""

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


def is_image(path: Path) -> bool:
    """Whether a file is an image, by its suffix in any case."""
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
