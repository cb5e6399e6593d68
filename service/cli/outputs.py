"""Standard output and error, which may be closed or full, or whose encoding may not represent a file's name."""

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import TextIO


def prepare() -> None:
    """Makes both writable. A closed one is discarded, and no other file can then take its descriptor's number."""
    sys.stdout = _prepared(sys.stdout)
    sys.stderr = _prepared(sys.stderr)


def finish() -> None:
    """Flushes both, or discards what cannot be written: the interpreter would retry at exit and print a traceback."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # full or without a reader; closed
            drop(stream)


def drop(stream: TextIO) -> None:
    """Discards what is buffered in a stream and everything written to it from now on."""
    with contextlib.suppress(OSError, ValueError):  # the stream has no file descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _prepared(stream: TextIO | None) -> TextIO:
    if stream is None:  # Python's sign that it was closed at startup
        return Path(os.devnull).open("w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="backslashreplace")
    return stream
