"""A baseline that ignores the image: it predicts each row's median depth in a training drive.

On a road, the image row alone says much about the distance, so good-looking metrics may reflect no more than that. A
network is useful only as far as it improves on this baseline.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from service.evaluation import DataError, depth_frames, frame_errors

NAMES = ("abs_rel_80m", "rmse_80m", "delta1_80m", "abs_rel_50m", "delta1_50m")


def row_medians(drive: Path) -> NDArray[np.float32]:
    """Median depth of each row of a packed drive, float32 [H] in metres; rows without points use the nearest row.

    Raises:
        DataError: the drive's images differ in height, or no frame has ground truth.
    """
    rows: list[NDArray[np.intp]] = []
    depths: list[NDArray[np.float32]] = []
    heights = set()
    for frame in tqdm(depth_frames(drive), desc=drive.name, unit="frame", mininterval=2.0):
        truth_m = frame.truth()
        heights.add(truth_m.shape[0])
        known = truth_m > 0
        rows.append(np.nonzero(known)[0])
        depths.append(truth_m[known])
    if len(heights) != 1:
        raise DataError(f"{drive}: image heights {sorted(heights)} differ: a per-row baseline needs a single height")
    row, depth_m = np.concatenate(rows), np.concatenate(depths)
    if not len(row):
        raise DataError(f"{drive}: no frame has any ground-truth point")
    order = np.argsort(row, kind="stable")
    present, starts = np.unique(row[order], return_index=True)
    medians = [float(np.median(part)) for part in np.split(depth_m[order], starts[1:])]
    every = np.arange(heights.pop())
    nearest = np.abs(every[:, None] - present[None, :]).argmin(axis=1)
    return np.asarray(np.array(medians, np.float32)[nearest])


def floor(train: Path, data: Path) -> dict[str, float]:
    """Errors on ``data`` of predicting the row medians of ``train``: means over images, named as in cards.

    Raises:
        DataError: a drive is unsuitable.
    """
    medians = row_medians(train)
    columns: dict[str, list[float]] = {name: [] for name in NAMES}
    for frame in depth_frames(data):
        truth_m = frame.truth()
        height, width = truth_m.shape
        of_rows = medians[np.arange(height) * len(medians) // height]
        errors = frame_errors(np.tile(of_rows[:, None], (1, width)), truth_m).errors
        for name in NAMES:
            if name in errors:
                columns[name].append(errors[name])
    return {name: fmean(values) for name, values in columns.items() if values}
