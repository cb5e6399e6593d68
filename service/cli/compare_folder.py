"""Runs two variants on every image of a folder, one after the other, with what is known of the truth."""

import asyncio
import heapq
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from service.api.pipeline import Answered
from service.api.pipeline import Side as SideName
from service.card import ClassLabel
from service.cli.data import images_of, is_depth_folder, spread
from service.cli.engine import Engine
from service.errors import ServiceError
from service.evaluation import DataError, DepthFrame, depth_agreement, depth_errors, depth_frames
from service.experiments.trial import DEPTH_AGREEMENT
from service.registry import Handle
from service.report.pairs import Pair, Side, total_variation
from service.tasks import ClassifyOptions, ClassifyResult, DepthOptions, DepthResult
from service.tasks.depth import place_in_picture

#: Images that a report shows because the two differ on them most.
SHOWN = 12
_CAP_M = 80.0


@dataclass(frozen=True, slots=True)
class Item:
    """One image to compare, and what is known of it."""

    path: Path
    label: ClassLabel | None = None
    frame: DepthFrame | None = None


@dataclass(slots=True)
class Folder:
    """What a folder holds, and later what came of it.

    Attributes:
        items: The images.
        unlabelled_folders: Folders of images that are no class of the model.
        pairs: What the two variants made of each image that could be read.
        most: Those on which they differ most, worst first; of depth with their maps.
        failed: Files that could not be read, and why.
    """

    items: list[Item]
    unlabelled_folders: list[str] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    most: list[Pair] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)


def classify_folder(root: Path, classes: Sequence[ClassLabel], limit: int | None) -> Folder:
    """Lists images; those in a folder called like a class (WordNet id or name) have a label."""
    by_name = {label.name.casefold(): label for label in classes} | {label.wnid.casefold(): label for label in classes}
    found, unknown = [], set()
    for path in images_of(root):
        parts = path.relative_to(root).parts
        label = by_name.get(parts[0].casefold()) if len(parts) > 1 else None
        if label is None and len(parts) > 1:
            unknown.add(parts[0])
        found.append(Item(path, label))
    labelled = any(item.label is not None for item in found)
    return Folder(spread(found, limit), sorted(unknown) if labelled else [])


def depth_folder(root: Path, limit: int | None) -> Folder:
    """Lists road scenes: with ground truth where the folder is laid out as `service.evaluation` says."""
    if is_depth_folder(root):
        try:
            return Folder(spread([Item(frame.path, frame=frame) for frame in depth_frames(root)], limit))
        except DataError:  # pictures without a truth
            pass
    return Folder(spread([Item(path) for path in images_of(root)], limit))


async def run(engine: Engine, folder: Folder, root: Path, sides: dict[SideName, Handle], options: Any) -> None:
    """Fills in what came of each image.

    Raises:
        ServiceError: None of them could be compared.
    """
    worst: list[tuple[float, int, Pair]] = []
    numbers = itertools.count()
    for item in tqdm(folder.items, unit="image"):
        name = str(item.path.relative_to(root)) if item.path.is_relative_to(root) else str(item.path)
        try:
            pair = await _pair(engine, item, name, sides, options)
        except ServiceError as error:
            folder.failed.append({"file": name, "detail": error.detail})
            continue
        folder.pairs.append(replace(pair, maps=None))
        if pair.divergence > 0:
            push = heapq.heappush if len(worst) < SHOWN else heapq.heappushpop
            push(worst, (pair.divergence, next(numbers), pair))
    if not folder.pairs:
        raise ServiceError("None of the images could be compared.", remedy=folder.failed[0]["detail"])
    folder.most = [pair for _, _, pair in sorted(worst, reverse=True)]


async def _pair(engine: Engine, item: Item, name: str, sides: dict[SideName, Handle], options: Any) -> Pair:
    if item.frame is not None and isinstance(options, DepthOptions) and options.fx_px is None:
        camera = await asyncio.to_thread(item.frame.camera)
        options = DepthOptions(fx_px=camera.fx_px)
    answers, _ = await engine.compare(item.path, sides, options)
    if isinstance(options, ClassifyOptions):
        return _classified(item, name, answers)
    return await asyncio.to_thread(_measured, item, name, answers)


def _classified(item: Item, name: str, answers: Mapping[SideName, Answered]) -> Pair:
    results: dict[SideName, ClassifyResult] = {side: answer.result for side, answer in answers.items()}
    made = {}
    for side, result in results.items():
        best = result.predictions[0]
        made[side] = Side(
            inference_s=answers[side].stages["inference"],
            says=f"{best.name} {100 * best.probability:.1f} %",
            confidence=best.probability,
            right=None if item.label is None else best.wnid == item.label.wnid,
        )
    a, b = results["a"], results["b"]
    same_classes = a.probabilities.shape == b.probabilities.shape
    return Pair(
        file=name,
        a=made["a"],
        b=made["b"],
        agree=a.predictions[0].wnid == b.predictions[0].wnid,
        divergence=total_variation(a, b) if same_classes else float(a.predictions[0].wnid != b.predictions[0].wnid),
        truth=None if item.label is None else item.label.name,
    )


def _measured(item: Item, name: str, answers: Mapping[SideName, Answered]) -> Pair:
    results: dict[SideName, DepthResult] = {side: answer.result for side, answer in answers.items()}
    errors: dict[SideName, dict[str, float] | None] = {"a": None, "b": None}
    if item.frame is not None:
        truth_m = item.frame.truth()
        for side, result in results.items():
            picture_m = place_in_picture(result.depth_m, result.geometry)
            if picture_m.shape != truth_m.shape:
                raise DataError(f"{item.frame.truth_path} is not of the size of {item.frame.path}.")
            errors[side] = depth_errors(picture_m, truth_m, _CAP_M)
    made = {}
    for side, result in results.items():
        scored = errors[side]
        says = f"median {float(np.median(result.depth_m)):.1f} m"
        if scored is not None:
            says += f", delta < 1.25 of {100 * scored['delta1']:.1f} %"
        made[side] = Side(inference_s=answers[side].stages["inference"], says=says, errors=scored)
    a_m, b_m = results["a"].depth_m, results["b"].depth_m
    within, abs_rel = depth_agreement(a_m, b_m)
    return Pair(
        file=name,
        a=made["a"],
        b=made["b"],
        agree=within >= DEPTH_AGREEMENT,
        divergence=1 - within,
        within=within,
        abs_rel=abs_rel,
        maps=(a_m, b_m),
    )
