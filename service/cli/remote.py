"""`--url`: a running service answers, and no model is loaded here. The commands' shared parts, and `predict`."""

import argparse
import io
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from service.card import TaskName
from service.cli.data import FileError, read
from service.client import AsyncClient, Client, ClientError, ProblemError
from service.errors import BadParameterError, ServiceError
from service.keys import fits_header, keys_in_file
from service.schemas import ClassifyAnswer, ModelInfo, ModelList
from service.tasks.classify import ClassifyResult, Prediction
from service.tasks.depth_formats import DepthFormat

#: Most classes in one answer. A model with at most this many classes returns its whole distribution.
MOST_CLASSES = 1000

#: Statuses that every other file would get as well: no key, no such network, not ready.
_OF_EVERY_FILE = frozenset(
    {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE}
)

#: Statuses that say how busy the service is, and nothing about the file. Figures of the rest would be of whichever
#: images happened to be answered.
_OF_THE_LOAD = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.GATEWAY_TIMEOUT})
_NO_FIGURE = (
    "The service could not answer every image in time, so no figure was computed. Run the command again when the "
    "service is less busy, or with --limit."
)


class ServiceChangedError(ClientError):
    """A different network answered than at first, so the answers cannot be combined."""


def connect(arguments: argparse.Namespace) -> AsyncClient:
    """A client of the service that the command line names."""
    return AsyncClient(arguments.url, api_key=_key(arguments.key_file))


def grey_picture() -> bytes:
    """An image to send first, to learn which network answers and which classes it has."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), (128, 128, 128)).save(stream, "PNG")
    return stream.getvalue()


@contextmanager
def about_file() -> Iterator[None]:
    """Turns errors that concern only one file into `FileError`; those that all files would meet pass through."""
    try:
        yield
    except ProblemError as error:
        if error.status in _OF_EVERY_FILE:
            raise
        if error.status in _OF_THE_LOAD:
            problem = error.problem.model_copy(update={"help": _NO_FIGURE})
            raise ProblemError(problem, error.status, error.retry_after_s) from error
        raise FileError(error.problem.detail) from error
    except ServiceError as error:  # from reading the file
        raise FileError(error.detail) from error


def find(models: ModelList, task: TaskName, model: str | None) -> list[ModelInfo]:
    """The versions of a model, or the task's default model; empty if there is none."""
    name = None if model is None else model.partition("@")[0]
    of_task = [entry for entry in models.models if entry.task == task]
    return [entry for entry in of_task if (entry.default if name is None else entry.name == name)]


def task_of(models: ModelList, model: str) -> TaskName | None:
    """The task of a model, NAME or NAME@VERSION; None if no model has this name."""
    name = model.partition("@")[0]
    return next((entry.task for entry in models.models if entry.name == name), None)


def classes_result(answer: ClassifyAnswer, classes: int | None = None) -> ClassifyResult:
    """Converts a service's answer to the task's result.

    Args:
        answer: The service's answer.
        classes: The model's number of classes. The distribution stays empty if the answer names fewer.
    """
    predictions = tuple(Prediction(one.index, one.wnid, one.name, one.probability) for one in answer.predictions)
    ranked = sorted(predictions, key=lambda one: one.index) if len(predictions) == classes else ()
    probabilities = np.array([one.probability for one in ranked], dtype=np.float64)
    return ClassifyResult(predictions, answer.uncertain, answer.min_probability, probabilities)


def check_all_classes(models: ModelList, answer: ClassifyAnswer) -> None:
    """Checks that an answer names every class, because labels are matched against them.

    Raises:
        BadParameterError: The model has more classes than an answer can name.
    """
    (count, *_) = [entry.classes for entry in models.models if entry.name == answer.model] or [None]
    if count is not None and count > len(answer.predictions):
        raise BadParameterError(
            "url",
            f"{answer.model} has {count} classes, but an answer names at most {MOST_CLASSES}.",
            remedy="Leave out --url, so that the classes are read from the model's card.",
        )


def documents(
    arguments: argparse.Namespace, paths: list[Path], form: DepthFormat | None
) -> Iterator[tuple[Path, dict[str, Any], bytes | None]]:
    """Yields one answer, or problem document, per file, in the files' order, and its depth map in `form`, if any.

    Raises:
        ProblemError: The only image was refused, or every image would be.
        ServiceError: The only image cannot be read.
        TransportError: The service did not answer.
    """
    lone = len(paths) == 1
    with Client(arguments.url, api_key=_key(arguments.key_file)) as service:
        for path in tqdm(paths, unit="image", disable=lone):
            try:
                yield path, *_ask(service, arguments, path, form)
            except ProblemError as error:
                if lone or error.status in _OF_EVERY_FILE:
                    raise
                yield path, error.problem.model_dump(mode="json", exclude_none=True), None
            except ServiceError as error:  # from reading the file here
                if lone:
                    raise
                yield path, error.problem(), None


def task_of_model(arguments: argparse.Namespace, model: str) -> TaskName | None:
    """See `task_of`, asking the service."""
    with Client(arguments.url, api_key=_key(arguments.key_file)) as service:
        return task_of(service.models(), model)


def _ask(
    service: Client, arguments: argparse.Namespace, path: Path, form: DepthFormat | None
) -> tuple[dict[str, Any], bytes | None]:
    data = read(path)  # once, because a pipe cannot be read again
    if arguments.task == "depth":
        size, fx = arguments.size, arguments.fx
        figures = service.depth(data, model=arguments.model, variant=arguments.variant, fx=fx, size=size)
        body = figures.model_dump(mode="json")
        if form is None:
            return body, None
        # Names the network of the figures: an experiment or a reload could let another one make the map.
        model = f"{figures.model}@{figures.version}"
        return body, service.depth_picture(data, form=form, model=model, variant=figures.variant, fx=fx, size=size)
    classes = service.classify(
        data,
        model=arguments.model,
        variant=arguments.variant,
        top_k=arguments.top_k,
        min_probability=arguments.min_probability,
    )
    return classes.model_dump(mode="json"), None


def _key(path: Path | None) -> str | None:
    """The key in a file, in the format of the service's key files. Not an option: command lines are visible to all.

    Raises:
        BadParameterError: The file cannot be read, does not hold exactly one key, or the key cannot be sent.
    """
    if path is None:
        return None
    remedy = "Name a file that holds one key from the operator of the service; lines that begin with # are ignored."
    try:
        found = keys_in_file(path)
    except (OSError, UnicodeDecodeError) as error:
        raise BadParameterError("key-file", f"{path} cannot be read.", remedy=remedy) from error
    if len(found) != 1:
        raise BadParameterError("key-file", f"{path} holds {len(found) or 'no'} keys.", remedy=remedy)
    if not fits_header(found[0]):
        raise BadParameterError(
            "key-file", f"The key in {path} has characters that a header cannot carry.", remedy=remedy
        )
    return found[0]
