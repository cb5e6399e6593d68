"""Top-k accuracy of a classifier, and folders of labelled images: `<root>/<class>/<file>`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.evaluation.folders import IMAGE_SUFFIXES, DataError, entries, files_below, is_image


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """A labelled image: its file and the name of its class folder."""

    path: Path
    folder: str


def labelled_images(root: Path) -> list[LabelledImage]:
    """Lists `<root>/<class>/**/<file>`, sorted by class and file; the suffix decides which files are images.

    Links to images that are not there are listed, so that they are reported as images that cannot be read.

    Raises:
        DataError: There are no images, or a folder cannot be read, so that its images would be missing in the scores.
    """
    inside = sorted(entries(root))
    found = [
        LabelledImage(path, folder.name)
        for folder in inside
        if os.path.isdir(folder)  # noqa: PTH112  pathlib's raises if the target of a link may not be read
        for path in sorted(files_below(folder, all_folders=True))
        if is_image(path) or (path.is_symlink() and path.suffix.lower() in IMAGE_SUFFIXES)
    ]
    if not found:
        raise _no_labelled_images(root, sum(map(is_image, inside)))
    return found


def _no_labelled_images(root: Path, unlabelled: int) -> DataError:
    """The error for a folder without `<class>/<file>`.

    Args:
        root: The folder.
        unlabelled: Number of images directly in it.
    """
    if not unlabelled:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        return DataError(f"{root} has no images in class folders, <class>/<file>: no files that end in {suffixes}.")
    images = "1 image" if unlabelled == 1 else f"{unlabelled} images"
    return DataError(
        f"{root} has {images} directly in it and none in class folders, <class>/<file>, whose names are the labels: "
        "move each image into a folder named by its WordNet id or class name, or name the parent folder if "
        f"{root.absolute().name!r} is a class. Images without labels are for `predict` and `compare`."
    )


@dataclass(slots=True)
class TopK:
    """Counts how often the true class is among the best-ranked predictions.

    Attributes:
        n: Number of images.
        top1: Number of images whose true class is ranked first.
        top5: Number of images whose true class is among the first five.
    """

    n: int = 0
    top1: int = 0
    top5: int = 0

    def add(self, wnids: Sequence[str], truth: str) -> None:
        """Adds one image: its predicted classes by decreasing probability, and its true class."""
        self.n += 1
        self.top1 += truth in wnids[:1]
        self.top5 += truth in wnids[:5]

    def summary(self) -> dict[str, float]:
        """Returns `n`, and `top1` and `top5` as fractions."""
        count = max(self.n, 1)
        return {"n": self.n, "top1": self.top1 / count, "top5": self.top5 / count}
