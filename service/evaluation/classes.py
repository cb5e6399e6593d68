"""How often a classifier is right, and folders of labelled images: `<root>/<class>/<file>`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.evaluation.folders import IMAGE_SUFFIXES, DataError, entries, files_below, is_image


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image of a folder of classes: its file and the name of its folder."""

    path: Path
    folder: str


def labelled_images(root: Path) -> list[LabelledImage]:
    """Lists `<root>/<class>/**/<file>` by class, then by file; a file is an image by its suffix, in any case.

    Raises:
        DataError: There is none.
    """
    found = [
        LabelledImage(path, folder.name)
        for folder in sorted(entries(root))
        if folder.is_dir()
        for path in sorted(files_below(folder))
        if is_image(path)
    ]
    if not found:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{root} has no images in folders of classes, <class>/<file>: files that end in {suffixes}.")
    return found


@dataclass(slots=True)
class TopK:
    """Counts how often the right class is among the best, from ranked answers.

    Attributes:
        n: Images seen.
        top1: Of these, with the right class first.
        top5: Of these, with the right class among the first five.
    """

    n: int = 0
    top1: int = 0
    top5: int = 0

    def add(self, wnids: Sequence[str], truth: str) -> None:
        """Adds one image: its classes by falling probability, and the right one."""
        self.n += 1
        self.top1 += truth in wnids[:1]
        self.top5 += truth in wnids[:5]

    def summary(self) -> dict[str, float]:
        """`n`, `top1` and `top5`, the latter as fractions."""
        count = max(self.n, 1)
        return {"n": self.n, "top1": self.top1 / count, "top5": self.top5 / count}
