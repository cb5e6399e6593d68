"""Quality metrics of predictions against labels and measured depth, and readers of evaluation data.

The command line, the API's comparisons and the offline evaluation of models all use them, so that a metric means the
same everywhere. Fractions are 0..1, lengths are in metres.
"""

from service.evaluation.classes import LabelledImage, TopK, labelled_images
from service.evaluation.depth import (
    CAPS_M,
    DEPTH_METRICS,
    DISTANCES_M,
    GARG_CROP,
    MIN_DEPTH_M,
    FrameErrors,
    depth_errors,
    errors_at_caps,
    errors_by_distance,
    frame_errors,
    garg_mask,
    mean_errors,
    median_scale,
)
from service.evaluation.folders import IMAGE_SUFFIXES, DataError, files_below, is_image
from service.evaluation.scenes import (
    KITTI_BASELINE_M,
    KITTI_FX_PX,
    TRUTH_FOLDERS,
    Camera,
    DepthFrame,
    camera_of,
    depth_frames,
    disparity_to_depth,
    folders_to_give,
    read_depth_png,
)

__all__ = [
    "CAPS_M",
    "DEPTH_METRICS",
    "DISTANCES_M",
    "GARG_CROP",
    "IMAGE_SUFFIXES",
    "KITTI_BASELINE_M",
    "KITTI_FX_PX",
    "MIN_DEPTH_M",
    "TRUTH_FOLDERS",
    "Camera",
    "DataError",
    "DepthFrame",
    "FrameErrors",
    "LabelledImage",
    "TopK",
    "camera_of",
    "depth_errors",
    "depth_frames",
    "disparity_to_depth",
    "errors_at_caps",
    "errors_by_distance",
    "files_below",
    "folders_to_give",
    "frame_errors",
    "garg_mask",
    "is_image",
    "labelled_images",
    "mean_errors",
    "median_scale",
    "read_depth_png",
]
