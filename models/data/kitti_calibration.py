"""Calibration of a KITTI recording day: ``calib_cam_to_cam.txt`` and ``calib_velo_to_cam.txt`` as published.

A point of the laser scanner appears in the rectified image of colour camera c (2 left, 3 right) at

    z [u, v, 1]^T = P_rect_0c  R_rect_00  [R | T]  [x, y, z, 1]^T

(A. Geiger et al., Vision meets robotics: the KITTI dataset, 2013, Eq. 6 to 8): the transform from the scanner to
reference camera 0, the rectification of that camera, and the projection of rectified camera c.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.evaluation import DataError

Matrix = NDArray[np.float64]

LEFT, RIGHT = 2, 3  # the colour cameras
CAM_TO_CAM, VELO_TO_CAM = "calib_cam_to_cam.txt", "calib_velo_to_cam.txt"


@dataclass(frozen=True)
class Calibration:
    """Calibration of the rectified colour cameras and of the scanner for one day.

    Attributes:
        width: width of the rectified left image, pixels.
        height: height of the rectified left image, pixels.
        p_rect_02: float64 [3,4], projection of the left colour camera, pixels and metres.
        p_rect_03: float64 [3,4], projection of the right colour camera.
        r_rect_00: float64 [3,3], rectification of the reference camera.
        velo_to_cam: float64 [4,4], scanner to reference camera, metres; None without a scanner.
    """

    width: int
    height: int
    p_rect_02: Matrix
    p_rect_03: Matrix
    r_rect_00: Matrix
    velo_to_cam: Matrix | None = None

    @property
    def fx_px(self) -> float:
        """Horizontal focal length of the rectified cameras, pixels."""
        return float(self.p_rect_02[0, 0])

    @property
    def baseline_m(self) -> float:
        """Distance between the colour cameras, metres; P_rect[0, 3] is -fx times the camera's x position."""
        return float(self.p_rect_02[0, 3] / self.p_rect_02[0, 0] - self.p_rect_03[0, 3] / self.p_rect_03[0, 0])

    def velo_to_image(self, camera: int) -> Matrix:
        """float64 [3,4]: maps homogeneous scanner points (metres) to homogeneous pixels of a colour camera.

        Raises:
            DataError: the calibration has no scanner.
        """
        if self.velo_to_cam is None:
            raise DataError(f"the calibration has no {VELO_TO_CAM}: laser points cannot be projected without it")
        rectify = np.eye(4)
        rectify[:3, :3] = self.r_rect_00
        return (self.p_rect_02 if camera == LEFT else self.p_rect_03) @ rectify @ self.velo_to_cam

    def packed(self) -> dict[str, object]:
        """The content of a packed drive's ``calib.json``."""
        return {
            "fx": self.fx_px,
            "fy": float(self.p_rect_02[1, 1]),
            "cx": float(self.p_rect_02[0, 2]),
            "cy": float(self.p_rect_02[1, 2]),
            "baseline_m": self.baseline_m,
            "P_rect_02": self.p_rect_02.tolist(),
            "P_rect_03": self.p_rect_03.tolist(),
        }

    def write(self, folder: Path) -> None:
        """Write ``calib.json`` into a packed drive."""
        (folder / "calib.json").write_text(json.dumps(self.packed(), indent=1) + "\n")


def read_calibration(cam_to_cam: Path, velo_to_cam: Path | None = None) -> Calibration:
    """Read a day's files.

    Args:
        cam_to_cam: ``calib_cam_to_cam.txt``, or the file of a KITTI 2015 scene (same format).
        velo_to_cam: ``calib_velo_to_cam.txt``; scenes have none, and laser points cannot be projected without it.

    Raises:
        DataError: a file is missing, or an entry is missing or has the wrong length.
    """
    archive = "<date>_calib.zip" if velo_to_cam is not None else "data_scene_flow_calib.zip"
    cameras = _read(cam_to_cam, archive)
    width, height = _entry(cameras, cam_to_cam, "S_rect_02", 2)
    transform: Matrix | None = None
    if velo_to_cam is not None:
        scanner = _read(velo_to_cam, archive)
        transform = np.eye(4)
        transform[:3, :3] = _entry(scanner, velo_to_cam, "R", 9).reshape(3, 3)
        transform[:3, 3] = _entry(scanner, velo_to_cam, "T", 3)
    return Calibration(
        width=int(width),
        height=int(height),
        p_rect_02=_entry(cameras, cam_to_cam, "P_rect_02", 12).reshape(3, 4),
        p_rect_03=_entry(cameras, cam_to_cam, "P_rect_03", 12).reshape(3, 4),
        r_rect_00=_entry(cameras, cam_to_cam, "R_rect_00", 9).reshape(3, 3),
        velo_to_cam=transform,
    )


def read_day(folder: Path) -> Calibration:
    """The calibration in ``<root>/<date>``, cameras and scanner."""
    return read_calibration(folder / CAM_TO_CAM, folder / VELO_TO_CAM)


def _read(path: Path, archive: str) -> dict[str, str]:
    """Lines ``key: value``; values stay text because the first one is a date.

    Args:
        path: the file.
        archive: the archive that KITTI publishes it in.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}. KITTI publishes it in {archive}, apart from the images."
        ) from error
    return {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}


def _entry(content: dict[str, str], path: Path, key: str, count: int) -> Matrix:
    """The numbers of an entry, float64 [count]."""
    try:
        values = np.array(content[key].split(), dtype=np.float64)
    except (KeyError, ValueError) as error:
        raise DataError(f"{path} has no entry {key} with {count} numbers") from error
    if values.shape != (count,):
        raise DataError(f"{path}: {key} has {values.size} numbers, not {count}")
    return values
