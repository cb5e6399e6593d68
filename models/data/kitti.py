"""Packed KITTI drives for training: ``<root>/<drive>/left``, ``right`` (optional), ``lidar_depth`` or ``disp_noc_0``.

Frames are held in memory at the network's input size (1 MB each) if they fit; otherwise batches are decoded on demand.
Disparities are in pixels of the network's input width.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from models.data.folder import fits_memory, read_rgb
from service.evaluation import camera_of, read_depth_png
from service.evaluation.folders import is_image

HEIGHT, WIDTH = 160, 608  # paper Sec. 4.5
FRAME_BYTES = HEIGHT * WIDTH * (3 + 3 + 4)  # a decoded stereo pair and its disparity
SHARE = 10  # by default, one in this many frames of a drive is held out
GAP = 10  # maximum number of frames (1 s) skipped between the training frames and the held-out frames of a drive


@dataclass(frozen=True)
class Frame:
    """A decoded frame at the network's input size.

    Attributes:
        drive: folder name.
        left: uint8 [160,608,3] RGB.
        right: uint8 [160,608,3] RGB, or None if there is no right image.
        disparity_px: float32 [160,608], 0 = unknown.
    """

    drive: str
    left: NDArray[np.uint8]
    right: NDArray[np.uint8] | None
    disparity_px: NDArray[np.float32]


@dataclass(frozen=True)
class FrameFile:
    """A frame that is decoded on access.

    Attributes:
        folder: the drive's folder.
        left: file of the left image.
    """

    folder: Path
    left: Path

    @property
    def drive(self) -> str:
        """Folder name."""
        return self.folder.name


def find_frames(root: Path) -> list[FrameFile]:
    """Every frame of every drive under ``root`` (folders with ``left/``), sorted by drive and file name.

    Raises:
        FileNotFoundError: there is no drive.
    """
    drives = sorted(p.parent for p in root.glob("*/left") if p.is_dir())
    if not drives:
        raise FileNotFoundError(f"{root} has no drive: expected folders with left/ and lidar_depth/ or disp_noc_0/")
    return [FrameFile(drive, path) for drive in drives for path in sorted((drive / "left").iterdir()) if is_image(path)]


def load_drives(root: Path) -> Sequence[Frame | FrameFile]:
    """The frames of `find_frames`, decoded if they fit into memory (`fits_memory`).

    Raises:
        FileNotFoundError: there is no drive.
        ValueError: a file cannot be decoded.
    """
    files = find_frames(root)
    if not fits_memory(len(files) * FRAME_BYTES):
        return files
    return [decoded(file) for file in tqdm(files, desc=f"decode {root.name}", unit="frame", mininterval=2.0)]


def decoded(frame: Frame | FrameFile) -> Frame:
    """The frame itself if it is decoded, else the frame read from its files."""
    return frame if isinstance(frame, Frame) else _load_frame(frame.folder, frame.left)


def all_decoded(frames: Sequence[Frame | FrameFile]) -> list[Frame]:
    """Decode a batch with one thread per core."""
    if all(isinstance(frame, Frame) for frame in frames):
        return [decoded(frame) for frame in frames]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # decoding releases the GIL
        return list(pool.map(decoded, frames))


def _load_frame(drive: Path, left_path: Path) -> Frame:
    left, native_width = _load_image(left_path)
    right_path = drive / "right" / left_path.name
    right = _load_image(right_path)[0] if right_path.is_file() else None
    calibration = drive / "calib.json"
    camera = camera_of(calibration if calibration.is_file() else None, native_width, drive)
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
    rgb = read_rgb(path)
    return np.array(rgb.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)), rgb.width


def downscale_disparity(native_px: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sparse disparity [H,W] in native pixels -> [160,608] in network pixels; the largest (nearest) in each cell."""
    height, width = native_px.shape
    rows, columns = np.nonzero(native_px > 0)
    out = np.zeros((HEIGHT, WIDTH), np.float32)
    target = (rows * HEIGHT // height, columns * WIDTH // width)
    np.maximum.at(out, target, native_px[rows, columns] * (WIDTH / width))
    return out


def drive_name(folder: str, names: Iterable[str]) -> str:
    """The one of ``names`` that a folder is a part of, else the folder itself.

    A name also stands for the folders that continue it after an underscore: `models.data.pack` writes the scenes of
    KITTI 2015 to ``kitti2015_1242x375`` and so on, one folder per camera.
    """
    return next((name for name in names if folder == name or folder.startswith(f"{name}_")), folder)


def hold_out_frames(
    frames: Sequence[Frame | FrameFile], last: dict[str, int]
) -> tuple[list[Frame | FrameFile], list[Frame | FrameFile]]:
    """Hold out the last frames of each drive: (training frames, held-out frames).

    For drives in ``last`` that number of frames is held out. For the others it is a tenth, and the same number of
    frames before them (at most `GAP`) is in neither part, because consecutive frames are nearly identical.

    Args:
        frames: the frames, in order within each drive.
        last: number of frames to hold out, by drive; the parts of a drive (`drive_name`) count as one.
    """
    drives = [drive_name(frame.drive, last) for frame in frames]
    counts = Counter(drives)
    seen: Counter[str] = Counter()
    train: list[Frame | FrameFile] = []
    held_out: list[Frame | FrameFile] = []
    for frame, drive in zip(frames, drives, strict=True):
        count = counts[drive]
        held = last.get(drive, count // SHARE)
        gap = 0 if drive in last else min(GAP, held)
        position = seen[drive]
        seen[drive] += 1
        if position >= count - held:
            held_out.append(frame)
        elif position < count - held - gap:
            train.append(frame)
    return train, held_out
