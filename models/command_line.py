"""The argument parser of the programs ``python -m models.*`` and ``python -m loadtest.*``, and types of numbers."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that reports errors in two lines instead of printing the long usage."""

    def error(self, message: str) -> NoReturn:
        """Print the error and a pointer to ``--help``, and exit with code 2."""
        sys.stderr.write(f"{self.prog}: error: {message}\nRun `{self.prog} --help` for usage.\n")
        raise SystemExit(2)


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
