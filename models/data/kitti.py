"""Packed KITTI drives for training: ``<root>/<drive>/left``, ``right`` (optional), ``lidar_depth`` or ``disp_noc_0``.

Frames are held in memory at the network's size. Disparities are in pixels of the network's input width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from service.evaluation import camera_of, read_depth_png

HEIGHT, WIDTH = 160, 608  # paper Sec. 4.5


@dataclass(frozen=True)
class Frame:
    """One stereo or single frame at network size.

    Attributes:
        drive: folder name.
        left: uint8 [160,608,3] RGB.
        right: the same, or None where there is no right image.
        disparity_px: float32 [160,608], 0 = unknown.
    """

    drive: str
    left: NDArray[np.uint8]
    right: NDArray[np.uint8] | None
    disparity_px: NDArray[np.float32]


def load_drives(root: Path) -> list[Frame]:
    """Load every drive under ``root`` (folders with ``left/``), sorted by drive and file name.

    Raises:
        FileNotFoundError: if there is no drive.
    """
    drives = sorted(p.parent for p in root.glob("*/left") if p.is_dir())
    if not drives:
        raise FileNotFoundError(f"{root} has no drive: expected folders with left/ and lidar_depth/ or disp_noc_0/")
    frames: list[Frame] = []
    for drive in drives:
        paths = sorted((drive / "left").iterdir())
        frames += [_load_frame(drive, path) for path in tqdm(paths, desc=drive.name, unit="frame", mininterval=2.0)]
    return frames


def _load_frame(drive: Path, left_path: Path) -> Frame:
    left, native_width = _load_image(left_path)
    right_path = drive / "right" / left_path.name
    right = _load_image(right_path)[0] if right_path.is_file() else None
    calibration = drive / "calib.json"
    camera = camera_of(calibration if calibration.is_file() else None, native_width)
    lidar = drive / "lidar_depth" / f"{left_path.stem}.png"
    ground_truth = drive / "disp_noc_0" / f"{left_path.stem}.png"
    if lidar.is_file():
        depth_m = read_depth_png(lidar)
        native = np.divide(camera.fx_px * camera.baseline_m, depth_m, out=np.zeros_like(depth_m), where=depth_m > 0)
    elif ground_truth.is_file():
        native = read_depth_png(ground_truth)
    else:
        native = np.zeros((2, 2), np.float32)
    return Frame(drive.name, left, right, downscale_disparity(native))


def _load_image(path: Path) -> tuple[NDArray[np.uint8], int]:
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    return np.array(rgb.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)), rgb.width


def downscale_disparity(native_px: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sparse disparity [H,W] in native pixels -> [160,608] in network pixels, the nearest (largest) value a cell."""
    height, width = native_px.shape
    rows, columns = np.nonzero(native_px > 0)
    out = np.zeros((HEIGHT, WIDTH), np.float32)
    target = (rows * HEIGHT // height, columns * WIDTH // width)
    np.maximum.at(out, target, native_px[rows, columns] * (WIDTH / width))
    return out


def hold_out_frames(frames: list[Frame], last: dict[str, int]) -> tuple[list[Frame], list[Frame]]:
    """Set aside the last ``last[drive]`` frames of each named drive: (training part, validation part)."""
    counts: dict[str, int] = {}
    for frame in frames:
        counts[frame.drive] = counts.get(frame.drive, 0) + 1
    seen: dict[str, int] = {}
    train: list[Frame] = []
    held_out: list[Frame] = []
    for frame in frames:
        position = seen[frame.drive] = seen.get(frame.drive, 0) + 1
        (held_out if position > counts[frame.drive] - last.get(frame.drive, 0) else train).append(frame)
    return train, held_out
