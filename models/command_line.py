"""Parser, types of numbers, output and ending of the programs ``python -m models.*`` and ``python -m loadtest.*``."""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, ParamSpec

Arguments = ParamSpec("Arguments")

FAILED = 2  # exit code of a program that could not do what it was asked to, as argparse's


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that reports errors in two lines instead of printing the long usage."""

    def error(self, message: str) -> NoReturn:
        """Print the error and a pointer to ``--help``, and exit with code 2."""
        sys.stderr.write(f"{self.prog}: error: {message}\nRun `{self.prog} --help` for usage.\n")
        raise SystemExit(FAILED)


class Distinct(argparse.Action):
    """Stores the values of an option that takes several, each one once, in their order."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Store the values."""
        setattr(namespace, self.dest, list(dict.fromkeys(values or ())))


def expects(*errors: type[Exception]) -> Callable[[Callable[Arguments, int]], Callable[Arguments, int]]:
    """Decorate a program's ``main``: of these errors the user reads one sentence (`failed`), and others are our bugs.

    Args:
        errors: what bad arguments, files and data raise; their messages name the remedy.
    """

    def decorate(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
        @functools.wraps(main)
        def program(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except errors as error:
                return failed(error)

        return program

    return decorate


def failed(error: object) -> int:
    """Say on standard error why a program could not do what it was asked to, and return its exit code, 2."""
    print(f"error: {error}", file=sys.stderr)
    return FAILED


def listed(names: Iterable[str], shown: int = 5) -> str:
    """The first ``shown`` of many names and the number of the others, for a message."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def show(text: str) -> None:
    """Print a program's result. A reader that has stopped reading, such as ``head``, is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        drop_output()


def drop_output() -> None:
    """Discard what is buffered in standard output and everything written to it from now on."""
    with contextlib.suppress(OSError, ValueError):  # it has no file descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def count(text: str) -> int:
    """Parse a whole number of at least 1, as the ``type`` of an argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def natural(text: str) -> int:
    """Parse a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def positive(text: str) -> float:
    """Parse a finite number above 0, as the ``type`` of an argument."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return value


def fraction(text: str) -> float:
    """Parse a number above 0 and at most 1, as the ``type`` of an argument."""
    value = positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0 and at most 1")
    return value
