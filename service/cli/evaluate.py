"""`evaluate`: accuracy of a variant on a folder of labelled images, or of road scenes with measured depth."""

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from service.api.pipeline import Answered
from service.calibration import ClassifyScores
from service.card import TaskName
from service.cli.data import is_depth_folder, spread
from service.cli.engine import Engine, describe, in_order, offline
from service.cli.evaluate_depth import evaluate_depth, text_of
from service.errors import BadParameterError, ServiceError
from service.evaluation import DEPTH_METRICS, DataError, labelled_images
from service.registry import Handle
from service.settings import Settings
from service.tasks import ClassifyOptions


def evaluate(settings: Settings, arguments: argparse.Namespace) -> int:
    """Prints the scores of a folder. Returns the exit code: 1 when an image could not be read."""
    folder: Path = arguments.folder
    task: TaskName = arguments.task or ("depth" if is_depth_folder(folder) else "classify")
    wanted = [(arguments.model, arguments.variant)]
    if arguments.against is not None:
        wanted.append(_other(arguments.against, arguments.model, task))
    with Engine(offline(settings)) as engine:
        handle, *others = engine.networks(task, wanted)
        begun = time.perf_counter()
        if task == "depth":
            scores = asyncio.run(evaluate_depth(engine, [handle, *others], folder, arguments.limit))
        else:
            scores = asyncio.run(_classify(engine, handle, folder, arguments.limit))
        seconds = time.perf_counter() - begun
    document: dict[str, Any] = {
        **scores,
        **describe(handle),
        "dataset": str(folder),
        "speed": {"images_per_second": round(scores["n"] / seconds, 2)},  # apart: it is no score
    }
    if arguments.json:
        print(json.dumps(document))
    else:
        print(_text(document))
    return 1 if document["failed"] else 0


def _other(against: str, model: str | None, task: TaskName) -> tuple[str | None, str]:
    """Model and variant of `--against [MODEL:]VARIANT`."""
    if task != "depth":
        raise BadParameterError(
            "against",
            "--against compares depth on road scenes with ground truth.",
            remedy="Use `compare FOLDER` for classifiers: it pairs the images of labelled folders.",
        )
    name, colon, variant = against.rpartition(":")
    return (name if colon else model), variant


async def _classify(engine: Engine, handle: Handle, folder: Path, limit: int | None) -> dict[str, Any]:
    """Scores on `<wnid>/<image>`, with intervals, calibration and confusions.

    Classes that the model does not know are refused, not skipped.
    """
    found = labelled_images(folder)
    known = {label.wnid for label in handle.card.classes}
    unknown = sorted({image.wnid for image in found} - known)
    if unknown:
        raise DataError(
            f"{folder} has {len(unknown)} folders that are no class of {handle.card.name}, such as {unknown[0]!r}: "
            "folders are named by WordNet id, as the model's card lists them."
        )
    chosen = spread(found, limit)
    options = ClassifyOptions(top_k=5)
    scores, failed = ClassifyScores(), []
    results = in_order(
        chosen, lambda image: _attempt(engine, image.path, handle, options), at_once=2 * engine.settings.workers
    )
    with tqdm(total=len(chosen), unit="image") as bar:
        async for image, answer in results:
            bar.update()
            if isinstance(answer, ServiceError):
                failed.append({"file": str(image.path), "detail": answer.detail})
            else:
                best = answer.result.predictions
                scores.add([item.wnid for item in best], image.wnid, best[0].probability)
    _check_any(scores.counts.n, failed)
    return {**scores.summary(), **scores.details(), "failed": failed}


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
    names = [name for name in ("top1", "top5", *DEPTH_METRICS) if name in document]
    scores = ", ".join(f"{name} {document[name]:.4f}" for name in names)
    lines = [f"{document['model']} ({document['variant']}, {document['kernel']}) on {document['n']} images: {scores}"]
    if "ece" in document:
        interval = f"{document['top1_low']:.4f}..{document['top1_high']:.4f}"
        lines.append(f"  top1 95 % interval {interval}, expected calibration error {document['ece']:.4f}")
    if "median_scaled" in document:
        lines += text_of(document)
    lines.append(f"  {document['speed']['images_per_second']} images a second")
    lines += [f"  not read: {item['file']}: {item['detail']}" for item in document["failed"]]
    return "\n".join(lines)
