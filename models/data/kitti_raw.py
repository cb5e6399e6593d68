"""KITTI raw as published: synchronised and rectified drives, laser scans, calibration, and frame lists.

    <root>/<date>/calib_cam_to_cam.txt, calib_velo_to_cam.txt
    <root>/<date>/<date>_drive_<number>_sync/image_02/data/<index>.png      left colour camera
                                             image_03/data/<index>.png      right colour camera
                                             velodyne_points/data/<index>.bin

An index has ten digits; images may have been re-encoded as .jpg. A list has one frame per line, in the format of
monodepth2's Eigen and Zhou splits: ``<date>/<drive> <index> l`` (or ``r`` for the right camera of the same pair).
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.data.kitti_calibration import LEFT, RIGHT, Calibration, read_day
from models.data.velodyne import project, read_velodyne
from service.evaluation import DataError

CAMERAS = {"l": LEFT, "r": RIGHT, "2": LEFT, "3": RIGHT}
SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, order=True)
class FrameId:
    """One frame of one camera.

    Attributes:
        date: such as ``2011_09_26``.
        drive: such as ``2011_09_26_drive_0009_sync``.
        index: number of the frame in its drive.
        camera: 2 (left) or 3 (right).
    """

    date: str
    drive: str
    index: int
    camera: int = LEFT

    @property
    def name(self) -> str:
        """The frame's file name without suffix."""
        return f"{self.index:010d}"


def read_split(path: Path) -> list[FrameId]:
    """The frames of a list (text or gzipped text), in its order.

    Raises:
        DataError: the file cannot be read, or a line is not ``<date>/<drive> <index> <l|r>``.
    """
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path} cannot be read as a list of frames: {error}") from error
    frames = []
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split()
        if not parts:
            continue
        folder, _, drive = parts[0].partition("/")
        if len(parts) != 3 or not drive or "/" in drive or not parts[1].isdecimal() or parts[2] not in CAMERAS:
            raise DataError(f"{path}:{number}: {line.strip()!r} is not '<date>/<drive> <index> <l or r>'")
        frames.append(FrameId(folder, drive, int(parts[1]), CAMERAS[parts[2]]))
    if not frames:
        raise DataError(f"{path} lists no frame")
    return frames


@dataclass(frozen=True)
class RawFrame:
    """A frame's files.

    Attributes:
        id: identifies the frame.
        folder: folder of its drive.
        calibration: calibration of its day.
    """

    id: FrameId
    folder: Path
    calibration: Calibration

    def image_path(self, camera: int) -> Path | None:
        """File of a camera's image; None if it is missing."""
        folder = self.folder / f"image_{camera:02d}" / "data"
        found = (folder / f"{self.id.name}{suffix}" for suffix in SUFFIXES)
        return next((path for path in found if path.is_file()), None)

    @property
    def scan_path(self) -> Path | None:
        """File of the laser scan; None if it is missing, as for a few frames of some drives."""
        path = self.folder / "velodyne_points" / "data" / f"{self.id.name}.bin"
        return path if path.is_file() else None

    def image(self, camera: int | None = None) -> NDArray[np.uint8]:
        """Image of a camera (default: the frame's own), uint8 [H,W,3] RGB.

        Raises:
            DataError: it is missing, or does not have the size of the rectified images.
        """
        camera = camera or self.id.camera
        path = self.image_path(camera)
        if path is None:
            raise DataError(f"{self.folder} has no image {self.id.name} of camera {camera} (image_{camera:02d}/data)")
        self.check_size(path)
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))

    def pair(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The image of the frame's own camera and that of the other camera, uint8 [H,W,3] each."""
        return self.image(), self.image(RIGHT if self.id.camera == LEFT else LEFT)

    def depth(self, camera: int | None = None) -> NDArray[np.float32]:
        """Ground-truth depth of a camera (default: the frame's own): float32 [H,W], metres, 0 where unknown.

        Raises:
            DataError: the scan is missing or damaged.
        """
        if self.scan_path is None:
            raise DataError(f"{self.folder} has no scan {self.id.name} (velodyne_points/data)")
        size = self.calibration
        return project(read_velodyne(self.scan_path), size, camera or self.id.camera, size.width, size.height)

    def check_size(self, path: Path) -> None:
        """Check that an image has the size of the rectified images.

        Raises:
            DataError: its size differs from the one in the calibration.
        """
        expected = (self.calibration.width, self.calibration.height)
        with Image.open(path) as image:
            if image.size != expected:
                raise DataError(
                    f"{path} is {image.width} x {image.height}, but the day's rectified images are {expected[0]} x "
                    f"{expected[1]}: use the synchronised and rectified drives (..._sync)"
                )


class RawKitti:
    """A folder of KITTI raw.

    Args:
        root: the folder that holds ``<date>/<drive>``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._days: dict[str, Calibration] = {}

    @cached_property
    def drives(self) -> list[tuple[str, str]]:
        """(date, drive) of every drive with left images, sorted.

        Raises:
            DataError: there is no drive.
        """
        found = sorted(path.parents[1] for path in self.root.glob("*/*/image_02/data") if path.is_dir())
        if not found:
            raise DataError(f"{self.root} has no <date>/<drive>/image_02/data: give the folder above the dates")
        return [(folder.parent.name, folder.name) for folder in found]

    def frames(self, drives: Iterable[tuple[str, str]] | None = None) -> list[FrameId]:
        """Every frame with a left image, of the given drives or of all.

        Raises:
            DataError: a drive is missing.
        """
        found: list[FrameId] = []
        for date, drive in self.drives if drives is None else drives:
            folder = self.root / date / drive / "image_02" / "data"
            names = {path.stem for path in folder.glob("*") if path.suffix in SUFFIXES and path.stem.isdecimal()}
            if not names:
                raise DataError(f"{folder} has no images")
            found += [FrameId(date, drive, int(name)) for name in sorted(names)]
        return found

    def frame(self, identity: FrameId) -> RawFrame:
        """A frame's files, not all of which need to exist.

        Raises:
            DataError: the calibration of its day is missing.
        """
        day = self._days.get(identity.date)
        if day is None:
            day = self._days[identity.date] = read_day(self.root / identity.date)
        return RawFrame(identity, self.root / identity.date / identity.drive, day)
