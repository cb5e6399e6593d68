"""How good answers are: against labels, against measured depth, and against each other; with readers of their data.

Used by the command line, by the comparisons of the API and by the offline evaluation of models, so that one figure
means one thing everywhere. Fractions are 0..1, lengths in metres.

Depth (D. Eigen, C. Puhrsch and R. Fergus, 2014; the crop is that of R. Garg et al., 2016): a prediction is scaled
bilinearly to the size of the ground truth, compared inside the Garg crop where the truth is known and less than a cap
(80 m, and 50 m), after clipping it to the cap; the errors are means over an image's points, and a data set's figure is
the mean of its images' errors, so that every image counts the same. The prediction is metric: it is NOT rescaled by
the median of the truth.

Folders: `<root>/<class>/<file>` for classes; for depth, `<root>/left/<name>.<suffix>` with the truth in
`<root>/lidar_depth/<name>.png` (uint16 = metres * 256) or `<root>/disp_noc_0/<name>.png` (uint16 = pixels of disparity
* 256), 0 where there is none, and the camera in `<root>/calib.json` if there is one.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"})

#: Caps of the Eigen protocol, metres: 80 in most papers, 50 in Garg's.
CAPS_M = (80.0, 50.0)

#: Least depth of the protocol, metres: the truth must exceed it, predictions are clipped to it.
MIN_DEPTH_M = 1e-3

#: Garg's crop as fractions of height and width: top, bottom, left, right.
GARG_CROP = (0.40810811, 0.99189189, 0.03594771, 0.96405229)

#: KITTI's rectified focal length, pixels, by image width, for folders without calib.json (their days differ by it).
KITTI_FX_PX: Mapping[int, float] = {1242: 721.5377, 1238: 718.3351, 1224: 707.0493}
KITTI_BASELINE_M = 0.5327

#: Names of the depth errors, in the order in which papers print them.
DEPTH_METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "delta1", "delta2", "delta3")


class DataError(ValueError):
    """Evaluation data is missing or not as described; the message names the file and the remedy."""


# --- classification --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image of a folder of classes: its file and the name of its folder (a WordNet id)."""

    path: Path
    wnid: str


def labelled_images(root: Path) -> list[LabelledImage]:
    """Lists `<root>/<class>/**/<file>` by class, then by file; a file is an image by its suffix, in any case.

    Raises:
        DataError: There is none.
    """
    found = [
        LabelledImage(path, folder.name)
        for folder in sorted(_entries(root))
        if folder.is_dir()
        for path in sorted(folder.rglob("*"))
        if _is_image(path)
    ]
    if not found:
        raise DataError(f"{root} has no images: expected <class>/<file>, a file being one of {sorted(IMAGE_SUFFIXES)}.")
    return found


def in_top_k(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], k: int) -> npt.NDArray[np.bool_]:
    """Whether each image's class is among its k best.

    Args:
        logits: [N, classes].
        labels: [N], the index of each image's class.
        k: How many classes may be named.

    Returns:
        bool [N]. Equal logits rank in the order of the classes, so a constant output is right for the first k classes
        and not for all.
    """
    classes = np.arange(logits.shape[1])
    own = np.take_along_axis(logits, labels[:, None], axis=1)  # [N, 1]
    ahead = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return np.asarray((ahead.sum(axis=1) < k) & ~np.isnan(own[:, 0]), dtype=np.bool_)


def classification_scores(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> dict[str, float]:
    """Top-1 and top-5 accuracy, fractions 0..1, of logits [N, classes] for labels [N]."""
    if len(logits) == 0:
        raise DataError("There are no images to score.")
    return {"top1": float(in_top_k(logits, labels, 1).mean()), "top5": float(in_top_k(logits, labels, 5).mean())}


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

    def add(self, wnids: Sequence[str], truth: str) -> bool:
        """Adds one image: its classes by falling probability, and the right one. Returns whether the first is right."""
        first = bool(wnids) and wnids[0] == truth
        self.n += 1
        self.top1 += first
        self.top5 += truth in wnids[:5]
        return first

    def summary(self) -> dict[str, float]:
        """`n`, `top1` and `top5`, the latter as fractions."""
        count = max(self.n, 1)
        return {"n": self.n, "top1": self.top1 / count, "top5": self.top5 / count}


# --- depth -----------------------------------------------------------------------------------------------------------


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
    for folder in (root, *sorted(path for path in _entries(root) if path.is_dir())):
        calib = folder / "calib.json"
        for path in sorted((folder / "left").glob("*")):
            if not _is_image(path):
                continue
            for kind in ("lidar_depth", "disp_noc_0"):
                truth = folder / kind / f"{path.stem}.png"
                if truth.is_file():
                    found.append(DepthFrame(path, truth, kind, calib if calib.is_file() else None))
                    break
    if not found:
        raise DataError(f"{root} has no left/<name>.<suffix> with lidar_depth/<name>.png or disp_noc_0/<name>.png.")
    return found


def read_depth_png(path: Path) -> Floats:
    """Reads a 16-bit PNG of KITTI's convention, value * 256.

    Returns:
        float32 [H, W]: metres, or pixels of disparity; 0 where there is none.

    Raises:
        DataError: It is no 16-bit grey PNG.
    """
    with Image.open(path, formats=["PNG"]) as image:
        if image.mode not in {"I;16", "I"}:
            raise DataError(f"{path} is {image.mode}, not 16-bit grey.")
        values = np.asarray(image).astype(np.float32)
    return values / np.float32(256.0)


def camera_of(calib: Path | None, width: int) -> Camera:
    """The camera of a folder: from its calib.json, or KITTI's for images of this width.

    Raises:
        DataError: The file lacks `fx` or `baseline_m`, or there is no file and the width is none of KITTI's.
    """
    if calib is not None:
        content = json.loads(calib.read_text(encoding="utf-8"))
        try:
            return Camera(float(content["fx"]), float(content["baseline_m"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{calib} must state fx (pixels) and baseline_m (metres): {error}.") from error
    if width not in KITTI_FX_PX:
        raise DataError(
            f"No calib.json, and no KITTI camera has images {width} px wide (they have {sorted(KITTI_FX_PX)}): "
            "add a calib.json with fx and baseline_m."
        )
    return Camera(KITTI_FX_PX[width], KITTI_BASELINE_M)


def kitti_fx_px(width: int) -> float | None:
    """Horizontal focal length of KITTI's rectified pictures of a width, pixels; None for another width."""
    return KITTI_FX_PX.get(width)


def depth_from_disparity(disparity_px: Floats, fx_px: float, baseline_m: float = KITTI_BASELINE_M) -> Floats:
    """As `disparity_to_depth`, for a camera given in numbers."""
    return disparity_to_depth(disparity_px, Camera(fx_px, baseline_m))


def disparity_to_depth(disparity_px: Floats, camera: Camera) -> Floats:
    """Depth = fx * baseline / disparity, metres; 0 where the disparity is 0."""
    known = disparity_px > 0
    depth_m = np.zeros_like(disparity_px)
    np.divide(camera.fx_px * camera.baseline_m, disparity_px, out=depth_m, where=known)
    return depth_m


def garg_mask(height: int, width: int) -> npt.NDArray[np.bool_]:
    """Points of an image that the protocol compares: bool [height, width]."""
    top, bottom = int(GARG_CROP[0] * height), int(GARG_CROP[1] * height)
    left, right = int(GARG_CROP[2] * width), int(GARG_CROP[3] * width)
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def depth_errors(prediction_m: Floats, truth_m: Floats, cap_m: float = 80.0) -> dict[str, float] | None:
    """Errors of one image.

    Args:
        prediction_m: float32 [H, W], metres, at the truth's size; NaN where the network saw nothing (not compared).
        truth_m: float32 [H, W], metres, 0 where there is none.
        cap_m: Points whose truth is not less than this are left out, and predictions are clipped to it.

    Returns:
        Each of DEPTH_METRICS: abs_rel, sq_rel (metres), rmse (metres), rmse_log, and delta1..3, the fractions of
        points whose ratio to the truth is below 1.25, 1.25^2, 1.25^3; None for an image without a point to compare.

    Raises:
        ValueError: The sizes differ.
    """
    if prediction_m.shape != truth_m.shape:
        raise ValueError(f"prediction {prediction_m.shape} and truth {truth_m.shape} must have the same size")
    compared = garg_mask(*truth_m.shape) & (truth_m > MIN_DEPTH_M) & (truth_m < cap_m) & ~np.isnan(prediction_m)
    if not compared.any():
        return None
    truth = truth_m[compared].astype(np.float64)
    prediction = np.clip(prediction_m[compared].astype(np.float64), MIN_DEPTH_M, cap_m)
    difference = prediction - truth
    ratio = np.maximum(prediction / truth, truth / prediction)
    return {
        "abs_rel": float(np.mean(np.abs(difference) / truth)),
        "sq_rel": float(np.mean(difference**2 / truth)),
        "rmse": math.sqrt(float(np.mean(difference**2))),
        "rmse_log": math.sqrt(float(np.mean((np.log(prediction) - np.log(truth)) ** 2))),
        "delta1": float(np.mean(ratio < 1.25)),
        "delta2": float(np.mean(ratio < 1.25**2)),
        "delta3": float(np.mean(ratio < 1.25**3)),
    }


def errors_at_caps(prediction_m: Floats, truth_m: Floats, caps_m: Sequence[float] = CAPS_M) -> dict[str, float]:
    """Errors of one image at every cap, named as in model cards: `abs_rel_80m`, `delta1_50m`, ...

    Args:
        prediction_m: As for `depth_errors`.
        truth_m: As for `depth_errors`.
        caps_m: The caps, metres.

    Returns:
        The errors; those of a cap below which there is no point are absent.
    """
    named: dict[str, float] = {}
    for cap_m in caps_m:
        for name, value in (depth_errors(prediction_m, truth_m, cap_m) or {}).items():
            named[f"{name}_{cap_m:g}m"] = value
    return named


def mean_errors(images: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Means over images of each of their errors; an image that lacks one does not count for it. Empty for none."""
    values: dict[str, list[float]] = {}
    for errors in images:
        for name, value in errors.items():
            values.setdefault(name, []).append(value)
    return {name: fmean(column) for name, column in values.items()}


def depth_agreement(a_m: Floats, b_m: Floats) -> tuple[float, float]:
    """How far two predictions of one picture agree.

    Args:
        a_m: float32 [H, W], metres, above 0.
        b_m: Likewise.

    Returns:
        The fraction of pixels whose depths are within a factor of 1.25, and the mean of |a - b| / b.
    """
    a, b = a_m.astype(np.float64), b_m.astype(np.float64)
    ratio = np.maximum(a / b, b / a)
    return float(np.mean(ratio < 1.25)), float(np.mean(np.abs(a - b) / b))


def _entries(root: Path) -> Iterator[Path]:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder.")
    return root.iterdir()


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
