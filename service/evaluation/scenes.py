"""Road scenes with measured depth on disk, and the cameras that took them.

The images are `<root>/left/<name>.<suffix>`. The ground truth is `<root>/lidar_depth/<name>.png` (uint16 = metres *
256) or `<root>/disp_noc_0/<name>.png` (uint16 = pixels of disparity * 256), 0 where it is unknown. The camera is
described in `<root>/calib.json`, which is optional. `python -m models.data.pack` creates such folders from KITTI.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.evaluation.folders import DataError, entries, files_below, is_image

Floats = npt.NDArray[np.float32]

#: KITTI's rectified focal length, pixels, by image width; used without calib.json. Each of the five recording days has
#: its own width: 2011_09_26, 09_28, 09_29, 09_30 and 10_03 (P_rect_02 of their calib_cam_to_cam.txt).
KITTI_FX_PX: Mapping[int, float] = {1242: 721.5377, 1224: 707.0493, 1238: 718.3351, 1226: 707.0912, 1241: 718.856}
KITTI_BASELINE_M = 0.5327

#: Names of the folders of measured depth, which contain 16-bit PNGs, not photos.
TRUTH_FOLDERS: tuple[Literal["lidar_depth"], Literal["disp_noc_0"]] = ("lidar_depth", "disp_noc_0")


@dataclass(frozen=True, slots=True)
class DepthFrame:
    """An image with ground truth.

    Attributes:
        path: The (left) image.
        truth_path: Its ground truth.
        kind: Kind of ground truth: `lidar_depth` (metres) or `disp_noc_0` (disparity).
        calib_path: The folder's calib.json; None if there is none.
    """

    path: Path
    truth_path: Path
    kind: Literal["lidar_depth", "disp_noc_0"]
    calib_path: Path | None

    def truth(self) -> Floats:
        """Reads the ground truth: float32 [H, W], metres, 0 where it is unknown."""
        if self.kind == "lidar_depth":
            return read_depth_png(self.truth_path)
        disparity_px = read_depth_png(self.truth_path)
        camera = camera_of(self.calib_path, disparity_px.shape[1], self.path.parent.parent)
        return disparity_to_depth(disparity_px, camera)

    def camera(self) -> "Camera":
        """Returns the camera that took the image."""
        with self.path.open("rb") as stream, Image.open(stream) as image:  # Pillow would not close what it cannot read
            return camera_of(self.calib_path, image.width, self.path.parent.parent)


@dataclass(frozen=True, slots=True)
class Camera:
    """Horizontal focal length in pixels of the image, and stereo baseline in metres."""

    fx_px: float
    baseline_m: float


def depth_frames(root: Path) -> list[DepthFrame]:
    """Lists the images with ground truth in a folder of the layout above and in its direct subfolders, by name.

    Raises:
        DataError: There are no such images.
    """
    found: list[DepthFrame] = []
    for folder in (root, *sorted(path for path in entries(root) if path.is_dir())):
        calib = folder / "calib.json"
        for path in sorted((folder / "left").glob("*")):
            if not is_image(path):
                continue
            for kind in TRUTH_FOLDERS:
                truth = folder / kind / f"{path.stem}.png"
                if truth.is_file():
                    found.append(DepthFrame(path, truth, kind, calib if calib.is_file() else None))
                    break
    if not found:
        meant = folders_to_give(root)
        raise DataError(
            f"{root} has no left/<name>.<suffix> with lidar_depth/<name>.png or disp_noc_0/<name>.png"
            + (f". Pass {' or '.join(map(str, meant))}, where they are." if meant else ".")
        )
    return found


def folders_to_give(root: Path) -> list[Path]:
    """Finds the folders below `root` to pass to `depth_frames` instead of `root`, whose drives lie deeper."""
    folders = {file.parent for file in files_below(root)}
    pictures = {folder.parent for folder in folders if folder.name == "left"}
    measured = {folder.parent for folder in folders if folder.name in TRUTH_FOLDERS}
    drives = pictures & measured
    return sorted({drive.parent for drive in drives if drive != root and drive.parent != root})


def read_depth_png(path: Path) -> Floats:
    """Reads a 16-bit PNG that stores value * 256, as KITTI's do.

    Returns:
        float32 [H, W]: metres, or pixels of disparity; 0 where it is unknown.

    Raises:
        DataError: The file is not a 16-bit greyscale PNG, or is damaged.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.mode not in {"I;16", "I"}:
                raise DataError(f"{path} has mode {image.mode}; a depth map must be a 16-bit greyscale PNG.")
            values = np.asarray(image).astype(np.float32)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} has too many pixels to be read.") from error
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a damaged chunk
        raise DataError(f"{path} cannot be read as a PNG: {error}.") from error
    return values / np.float32(256.0)


def camera_of(calib: Path | None, width: int, folder: Path) -> Camera:
    """Returns a folder's camera from its calib.json, or without one KITTI's camera for images of this width.

    Args:
        calib: The folder's calib.json; None if there is none.
        width: Width of the image, pixels.
        folder: The folder, for error messages: there may be many.

    Raises:
        DataError: The file cannot be read, is not JSON, or does not contain a positive `fx` and `baseline_m`; or there
            is no file and no KITTI camera has this width.
    """
    if calib is not None:
        try:
            content = json.loads(calib.read_text(encoding="utf-8"))
            camera = Camera(float(content["fx"]), float(content["baseline_m"]))
        except OSError as error:  # not an error of the image, for which the file is read
            raise DataError(f"{calib} cannot be read: {error.strerror or error}.") from error
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{calib} must contain fx (pixels) and baseline_m (metres): {error}.") from error
        if not (0 < camera.fx_px < math.inf and 0 < camera.baseline_m < math.inf):  # also rejects NaN
            raise DataError(
                f"{calib} has fx {camera.fx_px} and baseline_m {camera.baseline_m}; both must be numbers above 0."
            )
        return camera
    if width not in KITTI_FX_PX:
        raise DataError(
            f"{folder} has no calib.json, and no KITTI camera has images {width} px wide (theirs are "
            f"{sorted(KITTI_FX_PX)} px). Add a calib.json with fx and baseline_m."
        )
    return Camera(KITTI_FX_PX[width], KITTI_BASELINE_M)


def disparity_to_depth(disparity_px: Floats, camera: Camera) -> Floats:
    """Converts disparity to depth = fx * baseline / disparity, metres; 0 where the disparity is 0."""
    known = disparity_px > 0
    depth_m = np.zeros_like(disparity_px)
    np.divide(camera.fx_px * camera.baseline_m, disparity_px, out=depth_m, where=known)
    return depth_m
