"""`evaluate`: the accuracy of a variant on a folder of labelled images, or of road scenes with measured depth."""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from service.calibration import ClassifyScores
from service.card import TaskName
from service.cli.data import (
    FileError,
    check_scenes,
    classes_by_folder,
    is_depth_folder,
    printable,
    say_passed_over,
    spread,
)
from service.cli.engine import Engine, in_order, offline
from service.cli.evaluate_depth import evaluate_depth, text_of
from service.cli.network import LocalNetwork, Network
from service.cli.remote import connect, task_of
from service.cli.remote_network import RemoteNetwork
from service.errors import BadParameterError, ServiceError
from service.evaluation import DEPTH_METRICS, DataError, LabelledImage, labelled_images
from service.experiments.verdict import counted
from service.settings import Settings
from service.tasks import ClassifyResult


def evaluate(settings: Settings, arguments: argparse.Namespace) -> int:
    """Prints the scores on a folder. Returns the exit code: 1 if an image could not be read."""
    say_passed_over(arguments.folder)
    if arguments.url is not None:
        document = asyncio.run(_remote(settings, arguments))
    else:
        with Engine(offline(settings)) as engine:
            name = _named(arguments)
            task = _task(arguments, None if name is None else engine.task_of(name))
            wanted = _wanted(arguments, task)
            networks = [LocalNetwork(engine, handle) for handle in engine.networks(task, wanted)]
            document = asyncio.run(_scores(task, networks, arguments))
    if arguments.json:
        print(json.dumps(document))
    else:
        print(_text(document))
    return 1 if document["failed"] else 0


async def _remote(settings: Settings, arguments: argparse.Namespace) -> dict[str, Any]:
    """Scores networks of a running service."""
    async with connect(arguments) as service:
        name = _named(arguments)
        task = _task(arguments, None if name is None else task_of(await service.models(), name))
        networks = [
            await RemoteNetwork.open(service, task, model, variant, settings.default_variant)
            for model, variant in _wanted(arguments, task)
        ]
        return await _scores(task, networks, arguments)


def _named(arguments: argparse.Namespace) -> str | None:
    """The model that determines the task when `--task` is not given."""
    if arguments.task is not None:
        return None
    other: str = (arguments.against or "").rpartition(":")[0]
    return arguments.model or other or None


def _task(arguments: argparse.Namespace, of_model: TaskName | None) -> TaskName:
    """The given task, else that of the named model, else the one that the folder's layout suggests.

    Raises:
        BadParameterError: The folder looks like photos only because its road scenes lie deeper.
    """
    known: TaskName | None = arguments.task or of_model
    if known is not None:
        return known
    check_scenes(arguments.folder)
    return "depth" if is_depth_folder(arguments.folder) else "classify"


def _wanted(arguments: argparse.Namespace, task: TaskName) -> list[tuple[str | None, str | None]]:
    """Model and variant of each network, as named on the command line."""
    wanted = [(arguments.model, arguments.variant)]
    if arguments.against is not None:
        wanted.append(_other(arguments.against, arguments.model, task))
    return wanted


async def _scores(task: TaskName, networks: Sequence[Network], arguments: argparse.Namespace) -> dict[str, Any]:
    folder: Path = arguments.folder
    begun = time.perf_counter()
    if task == "depth":
        scores = await evaluate_depth(networks, folder, arguments.limit)
    else:
        scores = await _classify(networks[0], folder, arguments.limit)
    seconds = time.perf_counter() - begun
    return {
        **scores,
        **networks[0].describe(),
        "dataset": printable(folder),
        "speed": {"images_per_second": round(scores["n"] / seconds, 2)},  # separate, because it is not a score
    }


def _other(against: str, model: str | None, task: TaskName) -> tuple[str | None, str]:
    """Model and variant of `--against [MODEL:]VARIANT`."""
    if task != "depth":
        raise BadParameterError(
            "against",
            "--against compares depth networks on road scenes with ground truth.",
            remedy="For classifiers, use `compare FOLDER`, which pairs the images of labelled folders.",
        )
    name, colon, variant = against.rpartition(":")
    return (name if colon else model), variant


async def _classify(network: Network, folder: Path, limit: int | None) -> dict[str, Any]:
    """Scores on `<class>/<image>`, with intervals, calibration and confusions.

    A folder of a class that the model does not know is an error; it is not skipped.
    """
    found = labelled_images(folder)
    known = classes_by_folder(network.classes)
    unknown = sorted({image.folder for image in found if image.folder.casefold() not in known})
    if unknown:
        others = f" (the same holds for {counted(len(unknown) - 1, 'other folder')})" if len(unknown) > 1 else ""
        raise DataError(
            f"{unknown[0]!r} in {folder} names no class of {network.describe()['model']}, or more than one{others}: "
            "name each folder by the WordNet id or the class name in the model's card."
        )
    chosen = spread(found, limit)
    scores, failed = ClassifyScores(), []

    async def attempt(image: LabelledImage) -> ClassifyResult | FileError:
        """Returns the error of a bad file, so that one of thousands does not end the run."""
        try:
            return await network.classify(image.path)
        except FileError as error:
            return error

    with tqdm(total=len(chosen), unit="image") as bar:
        async for image, answer in in_order(chosen, attempt, at_once=network.at_once):
            bar.update()
            if isinstance(answer, FileError):
                failed.append({"file": printable(image.path), "detail": printable(str(answer))})
            else:
                best = answer.predictions
                scores.add([item.wnid for item in best], known[image.folder.casefold()].wnid, best[0].probability)
    if not scores.counts.n:
        raise ServiceError("None of the images could be evaluated.", remedy=failed[0]["detail"])
    return {**scores.summary(), **scores.details(), "failed": failed}


def _text(document: dict[str, Any]) -> str:
    names = [name for name in ("top1", "top5", *DEPTH_METRICS) if name in document]
    scores = ", ".join(f"{name} {document[name]:.4f}" for name in names)
    on = counted(document["n"], "image")
    lines = [f"{document['model']} ({document['variant']}, {document['kernel']}) on {on}: {scores}"]
    if "ece" in document:
        interval = f"{document['top1_low']:.4f}..{document['top1_high']:.4f}"
        lines.append(f"  top1 95 % interval {interval}, expected calibration error {document['ece']:.4f}")
    if "median_scaled" in document:
        lines += text_of(document)
    lines.append(f"  {document['speed']['images_per_second']} images per second")
    lines += [f"  not read: {item['file']}: {item['detail']}" for item in document["failed"]]
    return "\n".join(lines)
