"""The tasks, by name."""

from typing import Any

from service.tasks.base import Agreement, Geometry, Prepared, Task
from service.tasks.classify import ClassifyOptions, ClassifyResult, ClassifyTask, Prediction
from service.tasks.depth import DepthAgreement, DepthOptions, DepthResult, DepthSummary, DepthTask, depth_agreement
from service.tasks.depth_error import encode_error_map
from service.tasks.depth_formats import ColorOptions, DepthFormat, EncodedDepth, encode_depth

CLASSIFY = ClassifyTask()
DEPTH = DepthTask()

#: Every task by its name in cards, URLs and metric labels.
TASKS: dict[str, Task[Any, Any]] = {CLASSIFY.name: CLASSIFY, DEPTH.name: DEPTH}

__all__ = [
    "CLASSIFY",
    "DEPTH",
    "TASKS",
    "Agreement",
    "ClassifyOptions",
    "ClassifyResult",
    "ClassifyTask",
    "ColorOptions",
    "DepthAgreement",
    "DepthFormat",
    "DepthOptions",
    "DepthResult",
    "DepthSummary",
    "DepthTask",
    "EncodedDepth",
    "Geometry",
    "Prediction",
    "Prepared",
    "Task",
    "depth_agreement",
    "encode_depth",
    "encode_error_map",
]
