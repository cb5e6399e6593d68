"""Runs two variants on every image of a folder, and compares them with the ground truth if there is any."""

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from service.card import ClassLabel
from service.cli.data import (
    FileError,
    check_size,
    classes_by_folder,
    images_of,
    is_depth_folder,
    printable,
    spread,
    truth_of,
)
from service.errors import ServiceError
from service.evaluation import CAPS_M, DataError, DepthFrame, depth_errors, depth_frames
from service.pipeline import Side as SideName
from service.report.pairs import Pair, Side, total_variation
from service.tasks import ClassifyResult, DepthAgreement, depth_agreement
from service.tasks.base import Geometry
from service.tasks.depth import place_in_picture

#: A map at the network's size, float32 [H, W] metres, and the part of the image that it covers.
Placed = tuple[npt.NDArray[np.float32], Geometry]

#: Number of images in a report's list of the largest differences.
SHOWN = 12


class Comparison(Protocol):
    """Two networks, here or in a running service, that run on one image after the other."""

    @property
    def classes(self) -> Sequence[ClassLabel]:
        """The classes of side `a`, in the order of its outputs; empty for depth."""
        ...

    async def pair(self, item: "Item", name: str) -> Pair:
        """Both answers for one image; raises `FileError` for errors that concern only this file."""
        ...

    def side(self, name: SideName) -> dict[str, Any]:
        """What runs on one side, with `weight_bytes`, `session_bytes` and `artefact_bytes`; None for unknown values."""
        ...

    def machine(self) -> dict[str, Any]:
        """Where both run: `cpu`, `threads`, `kernel`, `onnxruntime`, `version`, `url`; None for unknown values."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """One image to compare, with its label or its ground truth if known."""

    path: Path
    label: ClassLabel | None = None
    frame: DepthFrame | None = None


@dataclass(slots=True)
class Folder:
    """The images of a folder and, after `run`, the results.

    Attributes:
        items: The images.
        unlabelled_folders: Subfolders whose names are not classes of the model.
        pairs: The answers of both variants for each image that could be read.
        most: The pairs that differ most, worst first; for depth, with their maps.
        failed: Files that could not be read, and why.
    """

    items: list[Item]
    unlabelled_folders: list[str] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    most: list[Pair] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)


def classify_folder(root: Path, classes: Sequence[ClassLabel], limit: int | None) -> Folder:
    """Lists images. Those in a subfolder named after a class, by WordNet id or unique name, have a label."""
    by_name = classes_by_folder(classes)
    found, unknown = [], set()
    for path in images_of(root):
        parts = path.relative_to(root).parts
        label = by_name.get(parts[0].casefold()) if len(parts) > 1 else None
        if label is None and len(parts) > 1:
            unknown.add(printable(parts[0]))
        found.append(Item(path, label))
    labelled = any(item.label is not None for item in found)
    return Folder(spread(found, limit), sorted(unknown) if labelled else [])


def depth_folder(root: Path, limit: int | None) -> Folder:
    """Lists road scenes, with ground truth if the folder has the layout of `service.evaluation`."""
    if is_depth_folder(root):
        try:
            return Folder(spread([Item(frame.path, frame=frame) for frame in depth_frames(root)], limit))
        except DataError:  # images without ground truth
            pass
    return Folder(spread([Item(path) for path in images_of(root)], limit))


async def run(comparison: Comparison, folder: Folder, root: Path) -> None:
    """Compares every image and fills in the results.

    Raises:
        ServiceError: No image could be compared.
    """
    worst: list[tuple[float, int, Pair]] = []
    numbers = itertools.count()
    for item in tqdm(folder.items, unit="image"):
        name = printable(item.path.relative_to(root) if item.path.is_relative_to(root) else item.path)
        try:
            pair = replace(await comparison.pair(item, name), path=item.path)
        except FileError as error:
            folder.failed.append({"file": name, "detail": printable(str(error))})
            continue
        folder.pairs.append(replace(pair, maps=None))
        if pair.divergence > 0:
            push = heapq.heappush if len(worst) < SHOWN else heapq.heappushpop
            push(worst, (pair.divergence, next(numbers), pair))
    if not folder.pairs:
        raise ServiceError("None of the images could be compared.", remedy=folder.failed[0]["detail"])
    folder.most = [pair for _, _, pair in sorted(worst, reverse=True)]


def classified(
    item: Item, name: str, results: tuple[ClassifyResult, ClassifyResult], times_s: tuple[float, float]
) -> Pair:
    """Pairs two classifications of one image; `times_s` are the inference times, seconds."""
    made = []
    for result, inference_s in zip(results, times_s, strict=True):
        best = result.predictions[0]
        made.append(
            Side(
                inference_s=inference_s,
                says=f"{best.name} {100 * best.probability:.1f} %",
                confidence=best.probability,
                right=None if item.label is None else best.wnid == item.label.wnid,
            )
        )
    a, b = results
    same_classes = a.probabilities.shape == b.probabilities.shape
    agree = a.predictions[0].wnid == b.predictions[0].wnid
    return Pair(
        file=name,
        a=made[0],
        b=made[1],
        agree=agree,
        divergence=total_variation(a, b) if same_classes else float(not agree),
        truth=None if item.label is None else item.label.name,
    )


def measured(item: Item, name: str, placed: tuple[Placed, Placed], times_s: tuple[float, float]) -> Pair:
    """Pairs two depth maps of one image, scored against the ground truth if any; `times_s` are the inference times.

    Raises:
        FileError: The ground truth cannot be read, or does not have the image's size.
    """
    errors: list[dict[str, float] | None] = [None, None]
    if item.frame is not None:
        truth_m = truth_of(item.frame)
        for number, (depth_m, geometry) in enumerate(placed):
            picture_m = place_in_picture(depth_m, geometry)
            check_size(item.frame, picture_m, truth_m)
            errors[number] = depth_errors(picture_m, truth_m, CAPS_M[0])
    (a_m, _), (b_m, _) = placed
    a, b = (
        depth_side(inference_s, float(np.median(depth_m)), scored)
        for inference_s, (depth_m, _), scored in zip(times_s, placed, errors, strict=True)
    )
    return depth_pair(name, a, b, depth_agreement(a_m, b_m), (a_m, b_m))


def depth_side(inference_s: float, median_m: float, errors: dict[str, float] | None) -> Side:
    """One network's depth for one image."""
    says = f"median {median_m:.1f} m"
    if errors is not None:
        says += f", delta < 1.25 of {100 * errors['delta1']:.1f} %"
    return Side(inference_s=inference_s, says=says, errors=errors)


def depth_pair(
    name: str,
    a: Side,
    b: Side,
    agreement: DepthAgreement,
    maps: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None,
) -> Pair:
    """Both networks' depth for one image, and how well they agree."""
    return Pair(
        file=name,
        a=a,
        b=b,
        agree=agreement.agree,
        divergence=1 - agreement.within,
        within=agreement.within,
        abs_rel=agreement.abs_rel,
        maps=maps,
    )
