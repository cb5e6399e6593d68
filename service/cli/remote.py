"""`predict --url`: a running service answers, and nothing is loaded here."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from service.client import Client, ProblemError
from service.errors import BadParameterError, BrokenImageError
from service.tasks.depth_formats import DepthFormat


def documents(arguments: argparse.Namespace, paths: list[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """One answer, or problem document, a file, in the files' order.

    Raises:
        ProblemError: A lone image was refused.
        TransportError: There was no answer of the service.
    """
    lone = len(paths) == 1
    with Client(arguments.url, api_key=_key(arguments.key_file)) as service:
        for path in tqdm(paths, unit="image", disable=lone):
            try:
                yield path, _ask(service, arguments, path)
            except ProblemError as error:
                if lone:
                    raise
                yield path, error.problem.model_dump(mode="json", exclude_none=True)


def depth_map(arguments: argparse.Namespace, path: Path, form: DepthFormat) -> bytes:
    """The depth map of a file, as bytes of a format."""
    with Client(arguments.url, api_key=_key(arguments.key_file)) as service:
        return service.depth_picture(
            _read(path),
            form=form,
            model=arguments.model,
            variant=arguments.variant,
            fx=arguments.fx,
            size=arguments.size,
        )


def _ask(service: Client, arguments: argparse.Namespace, path: Path) -> dict[str, Any]:
    data = _read(path)
    if arguments.task == "depth":
        figures = service.depth(
            data, model=arguments.model, variant=arguments.variant, fx=arguments.fx, size=arguments.size
        )
        return figures.model_dump(mode="json")
    classes = service.classify(
        data,
        model=arguments.model,
        variant=arguments.variant,
        top_k=arguments.top_k,
        min_probability=arguments.min_probability,
    )
    return classes.model_dump(mode="json")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BrokenImageError(
            f"{path} cannot be read: {error.strerror}.", remedy="Check the path and its permissions."
        ) from error


def _key(path: Path | None) -> str | None:
    """The key in a file: on the command line everybody on the machine could read it."""
    if path is None:
        return None
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadParameterError("key-file", f"{path} cannot be read.", remedy="Name a file with one key.") from error
