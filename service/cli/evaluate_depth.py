"""`evaluate` on road scenes with measured depth: the Eigen protocol, and more than it reports.

Besides the means, there are their intervals, the errors after median scaling, the errors by distance, the figures of
each image and, on request, the paired difference from another network. Frames of a drive resemble each other, so
intervals are computed from blocks of consecutive frames (`service.statistics.mean_of_sequence`).
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any

import numpy as np
from tqdm import tqdm

from service import statistics as st
from service.cli.data import FileError, check_size, printable, spread, taken_by, truth_of
from service.cli.engine import in_order
from service.cli.network import Network
from service.errors import ServiceError
from service.evaluation import (
    CAPS_M,
    DEPTH_METRICS,
    DISTANCES_M,
    DepthFrame,
    FrameErrors,
    depth_frames,
    frame_errors,
    mean_errors,
)
from service.experiments.results import interval
from service.experiments.verdict import counted


@dataclass(frozen=True, slots=True)
class _Row:
    """One image: its name, and the errors of each network on it."""

    file: str
    found: tuple[FrameErrors, ...]


async def evaluate_depth(networks: Sequence[Network], folder: Path, limit: int | None) -> dict[str, Any]:
    """Scores one network on a folder of scenes, or two on the same images.

    Args:
        networks: The network, and optionally the one to compare it with.
        folder: Laid out as `service.evaluation.depth_frames` reads it.
        limit: The most images to use, evenly spread.

    Returns:
        A JSON-ready document. Metrics without a cap in their name are those at 80 m.

    Raises:
        ServiceError: No image could be evaluated.
        DataError: The folder has a different layout, or a camera is not known.
    """
    chosen = spread(depth_frames(folder), limit)
    rows: list[_Row] = []
    failed: list[dict[str, str]] = []
    without: list[str] = []
    results = in_order(chosen, lambda frame: _errors(frame, networks), at_once=networks[0].at_once)
    with tqdm(total=len(chosen), unit="image") as bar:
        async for frame, found in results:
            bar.update()
            name = printable(frame.path.relative_to(folder))
            if isinstance(found, FileError):
                failed.append({"file": printable(frame.path), "detail": printable(str(found))})
            elif all(one.errors for one in found):
                rows.append(_Row(name, found))
            else:
                without.append(name)
    if not rows:
        reason = failed[0]["detail"] if failed else "The ground truth has no pixel in the region that is compared."
        raise ServiceError("None of the images could be evaluated.", remedy=reason)
    first = [row.found[0] for row in rows]
    means = mean_errors(one.errors for one in first)
    document = {
        "n": len(rows),
        **{name: means[key] for name in DEPTH_METRICS if (key := f"{name}_{CAPS_M[0]:g}m") in means},
        **means,
        "protocol": "eigen, garg crop, cap 80 m where not named",
        "intervals": {name: _interval([one.errors.get(name) for one in first]) for name in means},
        "median_scaled": _median_scaled(first),
        "by_distance": _by_distance(first),
        "points": {"known": sum(one.known for one in first), "seen": sum(one.seen for one in first)},
        "images": [_image(row) for row in rows],
        "without_points": without,
        "failed": failed,
    }
    if len(networks) > 1:
        document["paired"] = _paired([row.found for row in rows], networks[1])
    return document


async def _errors(frame: DepthFrame, networks: Sequence[Network]) -> tuple[FrameErrors, ...] | FileError:
    """Each network's errors on one image, or the error of a bad file, so that one of thousands does not end the run.

    Raises:
        DataError: The folder's camera is not known; all its images need it.
    """
    found = []
    try:
        camera, truth_m = await asyncio.to_thread(lambda: (taken_by(frame), truth_of(frame)))
        for network in networks:
            picture_m = await network.depth(frame.path, camera.fx_px)
            check_size(frame, picture_m, truth_m)
            found.append(await asyncio.to_thread(frame_errors, picture_m, truth_m))
    except FileError as error:
        return error
    return tuple(found)


def _interval(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean over a sequence of images with both intervals; images without a value do not count."""
    known = [value for value in values if value is not None]
    by_blocks = interval(st.mean_of_sequence(known, st.BLOCK_FRAMES))
    by_frames = interval(st.mean(known))
    return {
        "estimate": by_blocks.estimate,
        "lower": by_blocks.lower,
        "upper": by_blocks.upper,
        "if_frames_were_independent": {"lower": by_frames.lower, "upper": by_frames.upper},
        "blocks": len(known) // st.BLOCK_FRAMES,
    }


def _median_scaled(frames: Sequence[FrameErrors]) -> dict[str, Any]:
    """Means after median scaling, and how much the scale varies between images."""
    scales = [one.scale for one in frames if one.scale is not None]
    middle = median(scales)
    spread_of = pstdev([scale / middle for scale in scales])  # as in papers: of the scales divided by their median
    return {
        **mean_errors(one.median_scaled for one in frames),
        "scale": {"median": middle, "relative_spread": spread_of, "min": min(scales), "max": max(scales)},
    }


def _by_distance(frames: Sequence[FrameErrors]) -> list[dict[str, Any]]:
    """Errors per distance bin, averaged over the images that have points in the bin."""
    rows = []
    for number, (begin, end) in enumerate(pairwise(DISTANCES_M)):
        bins = [one.by_distance[number] for one in frames if one.by_distance[number][0]]
        rows.append(
            {
                "from_m": begin,
                "to_m": end,
                "images": len(bins),
                "points": sum(count for count, _, _ in bins),
                "abs_rel": fmean(value for _, value, _ in bins) if bins else None,
                "delta1": fmean(value for _, _, value in bins) if bins else None,
            }
        )
    return rows


def _image(row: _Row) -> dict[str, Any]:
    """Figures of one image, with those of the other network if there is one."""
    first, *others = row.found
    return {
        "file": row.file,
        "points": first.seen,
        "scale": _rounded(first.scale),
        "errors": {name: _rounded(value) for name, value in first.errors.items()},
        **({"against": {name: _rounded(value) for name, value in others[0].errors.items()}} if others else {}),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _paired(pairs: Sequence[Sequence[FrameErrors]], other: Network) -> dict[str, Any]:
    """Mean of the per-image differences, first network minus the other, with intervals."""
    names = [name for name in pairs[0][0].errors if all(name in one.errors for pair in pairs for one in pair)]
    differences = {
        name: np.array([first.errors[name] - against.errors[name] for first, against in pairs]) for name in names
    }
    return {
        "against": other.describe(),
        "means": mean_errors(against.errors for _, against in pairs),
        "median_scaled": _median_scaled([against for _, against in pairs]),
        "by_distance": _by_distance([against for _, against in pairs]),
        "differences": {
            name: {
                **_interval(list(values)),
                "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
                "images_better": int((values > 0).sum() if name.startswith("delta") else (values < 0).sum()),
            }
            for name, values in differences.items()
        },
    }


def text_of(document: dict[str, Any]) -> list[str]:
    """The lines of text below the headline at 80 m."""
    scaled = document["median_scaled"]
    lines = [
        f"  at a cap of 50 m: {_figures(document, '_50m')}",
        (
            f"  median-scaled, 80 m: {_figures(scaled, '_80m')} (scale {scaled['scale']['median']:.3f}, "
            f"spread {scaled['scale']['relative_spread']:.3f})"
        ),
        *(f"  {name}: {_between(document['intervals'][name])}" for name in ("abs_rel_80m", "delta1_80m")),
    ]
    if "paired" in document:
        paired = document["paired"]
        other = f"{paired['against']['model']} ({paired['against']['variant']})"
        for name in ("abs_rel_80m", "delta1_80m"):
            found = paired["differences"][name]
            lines.append(
                f"  {name} minus that of {other}: {_between(found, '+')}, better on {found['images_better']} images"
            )
    if document["without_points"]:
        left_out = len(document["without_points"])
        verb = "has no point to compare and is" if left_out == 1 else "have no point to compare and are"
        lines.append(f"  {counted(left_out, 'image')} {verb} not counted")
    return lines


def _figures(values: dict[str, float], suffix: str) -> str:
    found = {name: values.get(f"{name}{suffix}", math.nan) for name in DEPTH_METRICS}
    return ", ".join(f"{name} {value:.4f}" for name, value in found.items())


def _between(found: dict[str, Any], sign: str = "") -> str:
    if found["lower"] is None:
        return f"{found['estimate']:{sign}.4f}, no interval: fewer than {2 * st.BLOCK_FRAMES} images"
    frames = found["if_frames_were_independent"]
    return (
        f"{found['estimate']:{sign}.4f}, 95 % interval {found['lower']:{sign}.4f}..{found['upper']:{sign}.4f} from "
        f"{found['blocks']} blocks of {st.BLOCK_FRAMES} frames or more "
        f"({frames['lower']:{sign}.4f}..{frames['upper']:{sign}.4f} if frames were independent)"
    )
