"""`evaluate`: accuracy of a variant on a folder of labelled images, or of road scenes with measured depth."""

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from service.api.pipeline import Answered
from service.card import TaskName
from service.cli.data import Scene, every_nth, is_depth_folder, labelled_images, scenes
from service.cli.engine import Engine, describe, in_order, offline
from service.errors import BadParameterError, ServiceError
from service.evaluation import CAPS_M, TopK, depth_errors, mean_errors
from service.registry import Handle
from service.settings import Settings
from service.tasks import ClassifyOptions, DepthOptions, DepthResult
from service.tasks.depth import place_in_picture


def evaluate(settings: Settings, arguments: argparse.Namespace) -> int:
    """Prints the scores of a folder. Returns the exit code: 1 when an image could not be read."""
    folder: Path = arguments.folder
    task: TaskName = arguments.task or ("depth" if is_depth_folder(folder) else "classify")
    with Engine(offline(settings)) as engine:
        (handle,) = engine.handles(task, arguments.model, arguments.variant)
        begun = time.perf_counter()
        run = _depth if task == "depth" else _classify
        scores = asyncio.run(run(engine, handle, folder, arguments.limit))
        seconds = time.perf_counter() - begun
    document: dict[str, Any] = {
        **scores,
        **describe(handle),
        "dataset": str(folder),
        "images_per_second": round(scores["n"] / seconds, 2),
    }
    if arguments.json:
        print(json.dumps(document))
    else:
        print(_text(document))
    return 1 if document["failed"] else 0


async def _classify(engine: Engine, handle: Handle, folder: Path, limit: int | None) -> dict[str, Any]:
    """Top-1 and top-5 on `<wnid>/<image>`; classes that the model does not know are refused, not skipped."""
    found = labelled_images(folder)
    known = {label.wnid for label in handle.card.classes}
    unknown = sorted({wnid for _, wnid in found} - known)
    if unknown:
        raise BadParameterError(
            "folder",
            f"{len(unknown)} folders of {folder} are no class of {handle.card.name}: {', '.join(unknown[:5])}, ...",
            remedy="Folders are named by WordNet id, as GET /models and the model's card.yaml list them.",
        )
    chosen = [found[index] for index in every_nth(found, limit)]
    options = ClassifyOptions(top_k=5)
    counts, failed = TopK(), []
    results = in_order(
        chosen, lambda item: _attempt(engine, item[0], handle, options), at_once=2 * engine.settings.workers
    )
    with tqdm(total=len(chosen), unit="image") as bar:
        async for (path, wnid), answer in results:
            bar.update()
            if isinstance(answer, ServiceError):
                failed.append({"file": str(path), "detail": answer.detail})
            else:
                counts.add([item.wnid for item in answer.result.predictions], wnid)
    _check_any(counts.n, failed)
    return {**counts.summary(), "failed": failed}


async def _depth(engine: Engine, handle: Handle, folder: Path, limit: int | None) -> dict[str, Any]:
    """The Eigen protocol: bilinear to the native size, Garg crop, means of per-image measures, at both caps."""
    found = scenes(folder)
    chosen = [found[index] for index in every_nth(found, limit)]
    rows: dict[float, list[dict[str, float]]] = {cap_m: [] for cap_m in CAPS_M}
    failed = []
    results = in_order(chosen, lambda scene: _errors(engine, scene, handle), at_once=2 * engine.settings.workers)
    with tqdm(total=len(chosen), unit="image") as bar:
        async for scene, errors in results:
            bar.update()
            if isinstance(errors, ServiceError):
                failed.append({"file": str(scene.image), "detail": errors.detail})
                continue
            for cap_m, row in errors.items():
                rows[cap_m].append(row)
    _check_any(len(rows[CAPS_M[0]]), failed)
    means = {cap_m: mean_errors(rows[cap_m]) for cap_m in CAPS_M}
    return {
        "n": len(rows[CAPS_M[0]]),
        **means[CAPS_M[0]],
        "cap_m": CAPS_M[0],
        "caps": {f"{cap_m:g}": {"n": len(rows[cap_m]), **means[cap_m]} for cap_m in CAPS_M},
        "crop": "garg",
        "failed": failed,
    }


async def _errors(engine: Engine, scene: Scene, handle: Handle) -> dict[float, dict[str, float]] | ServiceError:
    """The measures of one picture by cap, left out where nothing can be compared."""
    measured_m = await asyncio.to_thread(scene.measured_m)
    options = DepthOptions(fx_px=scene.focal_px(measured_m.shape[1]))
    answer = await _attempt(engine, scene.image, handle, options)
    if isinstance(answer, ServiceError):
        return answer
    result: DepthResult = answer.result
    picture_m = await asyncio.to_thread(place_in_picture, result.depth_m, result.geometry)
    if picture_m.shape != measured_m.shape:
        return BadParameterError(
            "folder", f"{scene.truth} is not of the picture's size.", remedy="Check that they belong together."
        )
    by_cap = {cap_m: depth_errors(picture_m, measured_m, cap_m=cap_m) for cap_m in CAPS_M}
    return {cap_m: row for cap_m, row in by_cap.items() if row is not None}


async def _attempt(engine: Engine, path: Path, handle: Handle, options: object) -> Answered | ServiceError:
    """One bad file of thousands is reported, and does not end the run."""
    try:
        return await engine.predict(path, handle, options)
    except ServiceError as error:
        return error


def _check_any(count: int, failed: list[dict[str, str]]) -> None:
    if not count:
        reason = failed[0]["detail"] if failed else "No pixel of the ground truth lies where depth is compared."
        raise ServiceError("None of the images could be evaluated.", remedy=reason)


def _text(document: dict[str, Any]) -> str:
    names = [name for name, value in document.items() if isinstance(value, float) and name not in _NO_SCORES]
    scores = ", ".join(f"{name} {document[name]:.4f}" for name in names)
    lines = [f"{document['model']} ({document['variant']}, {document['kernel']}) on {document['n']} images: {scores}"]
    lines.append(f"  {document['images_per_second']} images a second")
    lines += [f"  not read: {item['file']}: {item['detail']}" for item in document["failed"]]
    return "\n".join(lines)


_NO_SCORES = frozenset({"images_per_second", "cap_m"})
