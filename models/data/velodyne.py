"""Depth ground truth from laser points: KITTI's ``.bin`` files, projected into an image by the Eigen protocol.

The steps determine where each point lands, and therefore the metrics:

1. points behind the scanner (x < 0) are dropped;
2. the others are projected (`Calibration.velo_to_image`); the third coordinate is the depth along the camera axis;
3. pixel = round(u) - 1, round(v) - 1. KITTI's development kit counts pixels from 1 and published figures include this
   offset, although projection matrices and arrays count from 0. It is kept so that figures remain comparable; without
   it the ground truth would move one pixel right and down;
4. points outside the image are dropped, and the nearest of several points in a pixel is kept;
5. points hidden from the camera by a nearer object are kept (no occlusion filtering).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.data.kitti_calibration import Calibration
from service.evaluation import DataError

POINT_BYTES = 16  # x, y, z, reflectance, float32 each
PNG_SCALE = 256  # uint16 = metres * 256, 0 = unknown


def read_velodyne(path: Path) -> NDArray[np.float32]:
    """Read a scan, float32 [N,4]: x forward, y left, z up (metres), reflectance 0..1.

    Raises:
        DataError: the file cannot be read or does not hold a whole number of points.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) % POINT_BYTES:
        raise DataError(
            f"{path} has {len(content)} bytes, not a multiple of {POINT_BYTES}: it is truncated, copy it again"
        )
    return np.frombuffer(content, dtype="<f4").reshape(-1, 4)


def project(
    points: NDArray[np.float32], calibration: Calibration, camera: int, width: int, height: int
) -> NDArray[np.float32]:
    """Project a scan into a colour camera.

    Args:
        points: float32 [N,4] as returned by `read_velodyne`.
        calibration: calibration of the scan's day.
        camera: 2 (left) or 3 (right).
        width: image width, pixels.
        height: image height, pixels.

    Returns:
        Depth, float32 [height,width]: metres, 0 where no point landed.
    """
    ahead = points[(points[:, 0] >= 0) & np.isfinite(points[:, :3]).all(axis=1), :3].astype(np.float64)
    homogeneous = np.column_stack([ahead, np.ones(len(ahead))])  # [M,4]
    image = homogeneous @ calibration.velo_to_image(camera).T  # [M,3]
    image = image[image[:, 2] > 0]
    depth_m = image[:, 2]
    columns, rows = (np.rint(image[:, axis] / depth_m) - 1 for axis in (0, 1))
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    nearest = np.full((height, width), np.inf)
    np.minimum.at(nearest, (rows[inside].astype(int), columns[inside].astype(int)), depth_m[inside])
    nearest[np.isinf(nearest)] = 0.0
    return nearest.astype(np.float32)


def write_depth_png(path: Path, depth_m: NDArray[np.float32]) -> None:
    """Write float32 [H,W] metres as KITTI's 16-bit PNG in steps of 1/256 m; depths beyond 255.99 m are dropped."""
    steps = np.rint(depth_m * PNG_SCALE)
    steps[steps > np.iinfo(np.uint16).max] = 0
    Image.fromarray(steps.astype(np.uint16)).save(path)
