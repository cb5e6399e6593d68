"""A small tree as KITTI raw is published: pictures, scans whose points land where a test says, calibration."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DATE, DRIVE = "2011_09_26", "2011_09_26_drive_0001_sync"
WIDTH, HEIGHT = 64, 40
FX, CX, CY = 50.0, 32.0, 20.0
BASELINE_M = 0.5
LEFT_AT_M = -0.06  # the left colour camera's place: -P_rect_02[0,3] / fx

# Scanner x forward, y left, z up -> camera x right, y down, z forward.
ROTATION = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]], np.float64)


def write_calibration(folder: Path, width: int = WIDTH, height: int = HEIGHT, fx: float = FX) -> None:
    """Both files of a day, with the lines that are not read, too."""
    folder.mkdir(parents=True, exist_ok=True)

    def line(key: str, values: NDArray[np.float64]) -> str:
        return f"{key}: {' '.join(f'{value:e}' for value in np.ravel(values))}\n"

    text = "calib_time: 09-Jan-2012 13:57:47\ncorner_dist: 9.950000e-02\n"
    for camera, offset in ((2, -fx * LEFT_AT_M), (3, -fx * (LEFT_AT_M + BASELINE_M))):
        projection = np.array([[fx, 0, CX, offset], [0, fx, CY, 0], [0, 0, 1, 0]])
        text += line(f"S_rect_{camera:02d}", np.array([width, height])) + line(f"P_rect_{camera:02d}", projection)
    (folder / "calib_cam_to_cam.txt").write_text(text + line("R_rect_00", np.eye(3)))
    scanner = "calib_time: 15-Mar-2012 11:37:16\n" + line("R", ROTATION) + line("T", np.zeros(3))
    (folder / "calib_velo_to_cam.txt").write_text(scanner + "delta_f: 0.000000e+00 0.000000e+00\n")


def point_at(u: float, v: float, depth_m: float) -> tuple[float, float, float, float]:
    """The laser point that the left camera sees at (u, v), counted from 0 as the matrices do, at a depth."""
    right = (u - CX) * depth_m / FX + LEFT_AT_M
    down = (v - CY) * depth_m / FX
    return depth_m, -right, -down, 0.5


def write_frame(root: Path, index: int, points: list[tuple[float, ...]] | None, *, suffix: str = ".png") -> None:
    """Both pictures of a frame (the right one darker), and its scan unless there is none."""
    drive = root / DATE / DRIVE
    for camera, grey in ((2, 200), (3, 100)):
        folder = drive / f"image_{camera:02d}" / "data"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (grey, index, 0)).save(folder / f"{index:010d}{suffix}")
    if points is not None:
        scans = drive / "velodyne_points" / "data"
        scans.mkdir(parents=True, exist_ok=True)
        np.array(points, "<f4").reshape(-1, 4).tofile(scans / f"{index:010d}.bin")


def write_tree(root: Path, frames: int = 3) -> Path:
    """A day with one drive; returns its root."""
    write_calibration(root / DATE)
    for index in range(frames):
        write_frame(root, index, [point_at(31.0, 25.0, 10.0 + index), point_at(11.0, 30.0, 5.0)])
    return root
