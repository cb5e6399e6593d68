"""Standard output and standard error, which may be closed, full, or of an encoding that a file's name does not fit."""

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import TextIO


def prepare() -> None:
    """Makes both writable: whoever closed one wants none of it, and no file of ours may come to have its number."""
    sys.stdout = _prepared(sys.stdout)
    sys.stderr = _prepared(sys.stderr)


def finish() -> None:
    """Writes what waits, or drops it where that fails: the interpreter's end would try again, and say so at length."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # full, or its reader has gone; or closed
            drop(stream)


def drop(stream: TextIO) -> None:
    """Lets what is written to a stream, and what waits in it, go nowhere from now on."""
    with contextlib.suppress(OSError, ValueError):  # it has no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _prepared(stream: TextIO | None) -> TextIO:
    if stream is None:  # so Python says that it was closed
        return Path(os.devnull).open("w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="backslashreplace")
    return stream
