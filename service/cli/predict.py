"""`predict`: the service's answers for image files, without starting the service."""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from tqdm import tqdm

from service.api.wire import classify_answer, depth_answer
from service.card import TaskName
from service.cli import remote
from service.cli.data import images_of, printable, say_passed_over
from service.cli.engine import Engine, in_order, offline
from service.cli.failure import about
from service.errors import BadParameterError, ServiceError
from service.pipeline import Answered, RequestContext
from service.registry import Handle
from service.request_id import request_id_from
from service.settings import Settings
from service.tasks import ClassifyOptions, DepthOptions, encode_depth
from service.tasks.depth_formats import DepthFormat
from service.tasks.point_cloud import interpolated_cloud

_ENDINGS: dict[str, DepthFormat | Literal["json"]] = {
    ".png16.png": "png16",
    ".png": "color",
    ".npy": "npy",
    ".ply": "ply",
    ".json": "json",
}


def predict(settings: Settings, arguments: argparse.Namespace) -> int:
    """Prints one answer per file; with `--json`, in the form of the service's response.

    A single image that cannot be read is an error. Among several images it is reported in its place, and the exit code
    is 1.
    """
    paths = [image for path in arguments.images for image in images_of(path)]
    for path in arguments.images:
        say_passed_over(path)
    lone = len(paths) == 1
    form = None if arguments.output is None else _map_format(arguments.output)  # fails before anything is loaded
    if form == "ply" and arguments.size == "original":
        raise interpolated_cloud()
    named = None if arguments.task is not None else arguments.model
    answers = _Answers(arguments)
    if arguments.url is not None:
        _settle_task(arguments, None if named is None else remote.task_of_model(arguments, named), lone=lone)
        _all_remote(paths, arguments, answers)
    else:
        with Engine(settings if lone else offline(settings)) as engine:
            _settle_task(arguments, None if named is None else engine.task_of(named), lone=lone)
            (handle,) = engine.handles(arguments.task, arguments.model, arguments.variant)
            asyncio.run(_all(engine, handle, paths, arguments, answers))
    if arguments.json:
        print(json.dumps(answers.kept[0] if lone else {"count": len(answers.kept), "results": answers.kept}))
    return 1 if answers.failed else 0


class _Answers:
    """What becomes of the answers: with `--json` they are kept for the one document, else printed as they come.

    Attributes:
        kept: With `--json`, the answers and problems so far.
        failed: Whether there was a problem.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._as_json: bool = arguments.json
        self._output: Path | None = arguments.output
        self.kept: list[dict[str, Any]] = []
        self.failed = False

    def add(self, path: Path, body: dict[str, Any]) -> None:
        """Takes one answer or problem, whose depth map has been written to `--output` if that is given."""
        self.failed |= "detail" in body
        if self._as_json:
            self.kept.append({"file": printable(path), **body})
        else:
            tqdm.write(_line(path, body))
        if self._output is not None:
            print(f"Wrote {printable(self._output)}", file=sys.stderr if self._as_json else sys.stdout)


def _settle_task(arguments: argparse.Namespace, of_model: TaskName | None, *, lone: bool) -> None:
    """Sets `arguments.task` if it is not given, and checks the options against it.

    Args:
        arguments: The command line's arguments.
        of_model: The task of the named model; None if there is none, or if the task is given.
        lone: Whether there is only one image.
    """
    unknown = arguments.task is None and arguments.model is not None and of_model is None
    arguments.task = arguments.task or of_model or "classify"
    if not unknown:  # the error will be that there is no such model
        _check_fit(arguments, lone=lone)


def _check_fit(arguments: argparse.Namespace, *, lone: bool) -> None:
    """Rejects options that would have no effect, because whoever sets them expects one.

    Raises:
        BadParameterError: There is such an option.
    """
    if arguments.task != "depth":
        given = {"output": arguments.output, "fx": arguments.fx, "size": arguments.size}
        name = next((name for name, value in given.items() if value not in (None, "network")), None)
        if name is not None:
            raise BadParameterError(name, f"--{name} applies to depth maps only.", remedy="Add --task depth.")
    else:
        given = {"top-k": arguments.top_k, "min-probability": arguments.min_probability}
        name = next((name for name, value in given.items() if value is not None), None)
        if name is not None:
            raise BadParameterError(name, f"--{name} applies to classification only.", remedy="Leave it out.")
    if arguments.output is not None and not lone:
        raise BadParameterError(
            "output",
            "--output writes the depth map of one image, but there are several images.",
            remedy="Run the command once per image.",
        )


def _all_remote(paths: list[Path], arguments: argparse.Namespace, answers: _Answers) -> None:
    """Answers every image by a running service."""
    form = None if arguments.output is None else _map_format(arguments.output)
    for path, body, depth_map in remote.documents(arguments, paths, None if form == "json" else form):
        if arguments.output is not None:
            _write(arguments.output, [_text(body) if depth_map is None else depth_map])
        answers.add(path, body)


async def _all(
    engine: Engine, handle: Handle, paths: list[Path], arguments: argparse.Namespace, answers: _Answers
) -> None:
    options = _options(engine.settings, arguments)

    async def answer_one(path: Path) -> Answered | ServiceError:
        try:
            return await engine.predict(path, handle, options)
        except ServiceError as error:
            if len(paths) == 1:
                raise about(path, error) from error.__cause__
            return error

    with tqdm(total=len(paths), unit="image", disable=len(paths) == 1) as bar:
        async for path, answer in in_order(paths, answer_one, at_once=2 * engine.settings.workers):
            bar.update()
            if isinstance(answer, ServiceError):
                body = answer.problem() | {"help": answer.local_remedy}
            else:
                body = _wire(answer).model_dump(mode="json")
            if arguments.output is not None and isinstance(answer, Answered):
                form = _map_format(arguments.output)
                _write(arguments.output, [_text(body)] if form == "json" else encode_depth(answer.result, form).chunks)
            answers.add(path, body)


def _options(settings: Settings, arguments: argparse.Namespace) -> ClassifyOptions | DepthOptions:
    if arguments.task == "depth":
        return DepthOptions(fx_px=arguments.fx, size=arguments.size)
    return ClassifyOptions(settings.top_k, settings.min_probability)


def _wire(answer: Answered) -> BaseModel:
    context = RequestContext(request_id_from(None))
    return classify_answer(answer, context) if answer.handle.card.task == "classify" else depth_answer(answer, context)


def _line(path: Path, body: dict[str, Any]) -> str:
    """An answer, or a problem, as a line of text."""
    name = printable(path)
    if "detail" in body:
        return f"{name}: {body['detail']} {body['help']}"
    if "predictions" in body:
        found = ", ".join(f"{item['name']} {100 * item['probability']:.1f} %" for item in body["predictions"])
        found = f"(uncertain) {found}" if body["uncertain"] else found
    else:
        found = f"{body['min_m']:.1f} to {body['max_m']:.1f} m, median {body['median_m']:.1f} m"
        if body["focal"]["assumed"]:
            found += " (assuming the training camera: give --fx)"
    return f"{name}: {found}  [{body['model']}, {body['variant']}, {body['kernel']}]"


def _map_format(path: Path) -> DepthFormat | Literal["json"]:
    """The format for the ending of a file's name."""
    name = path.name.lower()
    for ending, form in _ENDINGS.items():
        if name.endswith(ending):
            return form
    raise BadParameterError(
        "output",
        f"{path.name} ends in none of .png (in colour), .png16.png (metres x 256), .npy (metres), .ply (point cloud) "
        "and .json (figures).",
        remedy="Use one of these endings.",
    )


def _text(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def _write(path: Path, chunks: Iterable[bytes]) -> None:
    try:
        with path.open("wb") as stream:
            stream.writelines(chunks)
    except OSError as error:
        raise BadParameterError(
            "output", f"{path} cannot be written: {error.strerror}.", remedy="Choose another path."
        ) from error
