"""Road scenes with measured depth, as packed on the disk, and the cameras that took them.

`<root>/left/<name>.<suffix>` with the truth in `<root>/lidar_depth/<name>.png` (uint16 = metres * 256) or
`<root>/disp_noc_0/<name>.png` (uint16 = pixels of disparity * 256), 0 where there is none, and the camera in
`<root>/calib.json` if there is one. `python -m models.data.pack` makes such folders of KITTI as it is published.
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

#: KITTI's rectified focal length, pixels, by image width, for folders without calib.json (their days differ by it).
KITTI_FX_PX: Mapping[int, float] = {1242: 721.5377, 1238: 718.3351, 1224: 707.0493}
KITTI_BASELINE_M = 0.5327

#: Folders of measured depth, which are 16-bit PNGs and no photos.
TRUTH_FOLDERS: tuple[Literal["lidar_depth"], Literal["disp_noc_0"]] = ("lidar_depth", "disp_noc_0")


@dataclass(frozen=True, slots=True)
class DepthFrame:
    """One image with ground truth.

    Attributes:
        path: The (left) image.
        truth_path: Its ground truth.
        kind: What that holds: `lidar_depth` (metres) or `disp_noc_0` (disparity).
        calib_path: The folder's camera, if it has one.
    """

    path: Path
    truth_path: Path
    kind: Literal["lidar_depth", "disp_noc_0"]
    calib_path: Path | None

    def truth(self) -> Floats:
        """The ground truth: float32 [H, W], metres, 0 where there is none."""
        if self.kind == "lidar_depth":
            return read_depth_png(self.truth_path)
        disparity_px = read_depth_png(self.truth_path)
        camera = camera_of(self.calib_path, disparity_px.shape[1])
        return disparity_to_depth(disparity_px, camera)

    def camera(self) -> "Camera":
        """The camera that took the image."""
        with Image.open(self.path) as image:
            return camera_of(self.calib_path, image.width)


@dataclass(frozen=True, slots=True)
class Camera:
    """Horizontal focal length in pixels of the image, and distance to the second camera in metres."""

    fx_px: float
    baseline_m: float


def depth_frames(root: Path) -> list[DepthFrame]:
    """Lists the images that have ground truth, in a folder as described above or in folders of such, by name.

    Raises:
        DataError: There is none.
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
            + (f": give {' or '.join(map(str, meant))}, where there are such." if meant else ".")
        )
    return found


def folders_to_give(root: Path) -> list[Path]:
    """The folders below `root`, at any depth, of which `depth_frames` would list a drive that it does not of `root`."""
    folders = {file.parent for file in files_below(root)}
    pictures = {folder.parent for folder in folders if folder.name == "left"}
    measured = {folder.parent for folder in folders if folder.name in TRUTH_FOLDERS}
    drives = pictures & measured
    return sorted({drive.parent for drive in drives if drive != root and drive.parent != root})


def read_depth_png(path: Path) -> Floats:
    """Reads a 16-bit PNG of KITTI's convention, value * 256.

    Returns:
        float32 [H, W]: metres, or pixels of disparity; 0 where there is none.

    Raises:
        DataError: It is no 16-bit grey PNG, or is damaged.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.mode not in {"I;16", "I"}:
                raise DataError(f"{path} is {image.mode}, not 16-bit grey.")
            values = np.asarray(image).astype(np.float32)
    except (OSError, SyntaxError) as error:  # Pillow's SyntaxError: a damaged chunk
        raise DataError(f"{path} is no PNG that can be read: {error}.") from error
    return values / np.float32(256.0)


def camera_of(calib: Path | None, width: int) -> Camera:
    """The camera of a folder: from its calib.json, or KITTI's for images of this width.

    Raises:
        DataError: The file is no JSON, or does not state a positive `fx` and `baseline_m`; or there is no file and the
            width is none of KITTI's.
    """
    if calib is not None:
        try:
            content = json.loads(calib.read_text(encoding="utf-8"))
            camera = Camera(float(content["fx"]), float(content["baseline_m"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{calib} must state fx (pixels) and baseline_m (metres): {error}.") from error
        if not (0 < camera.fx_px < math.inf and 0 < camera.baseline_m < math.inf):  # also refuses NaN
            raise DataError(f"{calib} states {camera}; both must be numbers above 0.")
        return camera
    if width not in KITTI_FX_PX:
        raise DataError(
            f"No calib.json, and no KITTI camera has images {width} px wide (they have {sorted(KITTI_FX_PX)}): "
            "add a calib.json with fx and baseline_m."
        )
    return Camera(KITTI_FX_PX[width], KITTI_BASELINE_M)


def disparity_to_depth(disparity_px: Floats, camera: Camera) -> Floats:
    """Depth = fx * baseline / disparity, metres; 0 where the disparity is 0."""
    known = disparity_px > 0
    depth_m = np.zeros_like(disparity_px)
    np.divide(camera.fx_px * camera.baseline_m, disparity_px, out=depth_m, where=known)
    return depth_m
