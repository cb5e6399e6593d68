"""Folders of images as data sets: labelled ones (`<wnid>/*.jpg`), and road scenes with measured depth."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.errors import BadParameterError
from service.evaluation import depth_from_disparity, kitti_fx_px

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"})

_LEFT, _LIDAR, _DISPARITY, _CALIBRATION = "left", "lidar_depth", "disp_noc_0", "calib.json"
_KITTI_SCALE = 256.0  # uint16 = metres, or pixels of disparity, times 256; 0 = none


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture with measured depth.

    Attributes:
        image: The left picture's file.
        truth: The file of its depth or disparity.
        is_disparity: Which of the two.
        fx_px: Horizontal focal length, pixels; None takes it from the picture's width (KITTI).
        baseline_m: Of the stereo pair, metres; None takes KITTI's.
    """

    image: Path
    truth: Path
    is_disparity: bool
    fx_px: float | None
    baseline_m: float | None

    def measured_m(self) -> npt.NDArray[np.float32]:
        """Reads the ground truth: float32 [H, W] metres, 0 where nothing was measured.

        Raises:
            BadParameterError: It is disparity and the focal length is not known.
        """
        with Image.open(self.truth) as file:
            values = np.asarray(file, dtype=np.float32) / np.float32(_KITTI_SCALE)
        if not self.is_disparity:
            return values
        fx_px = self.focal_px(values.shape[1])
        if fx_px is None:
            raise BadParameterError(
                "folder",
                f"{self.truth} is disparity, {values.shape[1]} pixels wide, and its focal length is not known.",
                remedy=f"Put a {_CALIBRATION} with fx and baseline_m beside the folder {_LEFT}.",
            )
        if self.baseline_m is None:
            return depth_from_disparity(values, fx_px)
        return depth_from_disparity(values, fx_px, self.baseline_m)

    def focal_px(self, width: int) -> float | None:
        """Horizontal focal length of a picture of that width, pixels; None where nothing is known."""
        return self.fx_px if self.fx_px is not None else kitti_fx_px(width)


def is_image(path: Path) -> bool:
    """Whether a file's name says that it is an image, in any case (`.JPEG` too)."""
    return path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def images_of(path: Path) -> list[Path]:
    """A file as it is, or every image below a folder, sorted.

    Raises:
        BadParameterError: There is nothing.
    """
    if path.is_file():
        return [path]
    _check_folder(path)
    images = sorted(file for file in path.rglob("*") if is_image(file))
    if not images:
        raise BadParameterError("path", f"There is no image in {path}.", remedy=_looked_for())
    return images


def labelled_images(folder: Path) -> list[tuple[Path, str]]:
    """Every image of `<folder>/<wnid>/`, sorted, with its wnid.

    Raises:
        BadParameterError: There is none.
    """
    _check_folder(folder)
    found = [
        (file, group.name)
        for group in sorted(folder.iterdir())
        if group.is_dir()
        for file in sorted(group.iterdir())
        if is_image(file)
    ]
    if not found:
        raise BadParameterError(
            "folder",
            f"There is no image in a folder of a class in {folder}.",
            remedy=f"Give a folder of <wnid>/<image>, such as n02123045/1.jpg; {_looked_for()}",
        )
    return found


def scenes(folder: Path) -> list[Scene]:
    """Every picture of a depth data set that has ground truth.

    Args:
        folder: One drive, with `left/` and `lidar_depth/` or `disp_noc_0/` in it, or a folder of drives.

    Raises:
        BadParameterError: There is none.
    """
    _check_folder(folder)
    drives = [folder] if (folder / _LEFT).is_dir() else sorted(path.parent for path in folder.rglob(_LEFT))
    found = [scene for drive in drives for scene in _drive_scenes(drive)]
    if not found:
        raise BadParameterError(
            "folder",
            f"There is no picture with measured depth in {folder}.",
            remedy=f"Give a folder with {_LEFT}/ and {_LIDAR}/ or {_DISPARITY}/ of files with the same names.",
        )
    return found


def is_depth_folder(folder: Path) -> bool:
    """Whether a folder is a depth data set: it, or a folder in it, has `left/`."""
    return folder.is_dir() and any(path.is_dir() for path in (folder / _LEFT, *folder.glob(f"*/{_LEFT}")))


def every_nth(items: Sequence[tuple[Path, str]] | Sequence[Scene], limit: int | None) -> list[int]:
    """Indices of at most `limit` items, evenly spread, so that all classes and drives have their share."""
    count = len(items)
    if limit is None or limit >= count:
        return list(range(count))
    return [index * count // limit for index in range(limit)]


def _drive_scenes(drive: Path) -> list[Scene]:
    fx_px, baseline_m = _calibration(drive / _CALIBRATION)
    truths: dict[str, tuple[Path, bool]] = {}
    for name, is_disparity in ((_DISPARITY, True), (_LIDAR, False)):
        if (drive / name).is_dir():
            truths.update({file.stem: (file, is_disparity) for file in (drive / name).iterdir() if is_image(file)})
    return [
        Scene(image, *truths[image.stem], fx_px, baseline_m)
        for image in sorted((drive / _LEFT).iterdir())
        if is_image(image) and image.stem in truths
    ]


def _calibration(file: Path) -> tuple[float | None, float | None]:
    """Fx in pixels and the baseline in metres, where the file is there and says so."""
    if not file.is_file():
        return None, None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        fx_px, baseline_m = values.get("fx"), values.get("baseline_m")
        return (None if fx_px is None else float(fx_px)), (None if baseline_m is None else float(baseline_m))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BadParameterError(
            "folder", f"{file} cannot be read ({error}).", remedy='It is JSON: {"fx": 721.5, "baseline_m": 0.54}.'
        ) from error


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise BadParameterError("path", f"{folder} {what}.", remedy="Check the path.")


def _looked_for() -> str:
    return f"images end in {', '.join(sorted(SUFFIXES))}."
