"""Error reports of commands: one sentence on standard error and, with `--json`, one document on standard output."""

import argparse
import contextlib
import json
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn

from service.cli.data import printable
from service.client import NetworkSettingsError, ProblemError, TransportError
from service.errors import ServiceError
from service.evaluation import DataError

USAGE_ERROR = 2


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one sentence instead of some twenty lines of usage."""

    as_json = False  # a class attribute, because each subcommand has its own parser

    def error(self, message: str) -> NoReturn:
        """Ends the process with exit code 2."""
        sentence = f"{message[0].upper()}{message[1:]}."
        remedy = f"See `{self.prog} --help`."
        fail(UsageError(sentence, remedy=remedy), as_json=Parser.as_json)
        raise SystemExit(USAGE_ERROR)


class UsageError(Exception):
    """The command line cannot be understood."""

    def __init__(self, detail: str, *, remedy: str) -> None:
        self.detail, self.remedy = detail, remedy
        super().__init__(f"{detail} {remedy}")


def fail(error: Exception, *, as_json: bool) -> int:
    """Reports an error.

    Args:
        error: An error of the service, the client, the data, or the system.
        as_json: Whether to print a document as well: a problem (RFC 9457) as the service would send it, but with what
            helps on the command line, and with at least `code` and `detail`.

    Returns:
        The exit code.
    """
    # A closed stream must not replace the exit code with a traceback.
    with contextlib.suppress(OSError):
        print(f"error: {_sentence(error)}", file=sys.stderr)
    if as_json:
        with contextlib.suppress(OSError):
            print(json.dumps(_document(error)), flush=True)
    return USAGE_ERROR


def about(path: Path, error: ServiceError) -> ServiceError:
    """Adds the file's name to an error: a command line may name several files."""
    name = printable(path)
    return error if name in error.detail else error.about(name)


def _sentence(error: Exception) -> str:
    if isinstance(error, ServiceError):
        return f"{error.detail} {error.local_remedy}".strip()
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    if isinstance(error, ProblemError) and error.status == HTTPStatus.UNAUTHORIZED:
        return f"{error.problem.detail} Name a file with the key: --key-file. The operator of the service issues keys."
    return str(error)


def _document(error: Exception) -> dict[str, Any]:
    if isinstance(error, ServiceError):
        return error.problem() | {"help": error.local_remedy}
    if isinstance(error, ProblemError):
        return error.problem.model_dump(mode="json", exclude_none=True)
    if isinstance(error, UsageError):
        return {"code": "usage", "detail": error.detail, "help": error.remedy}
    if isinstance(error, DataError):
        return {"code": "bad-data", "detail": str(error)}
    if isinstance(error, OSError):
        return {"code": "system-error", "detail": _sentence(error)}
    codes = {TransportError: "no-answer", NetworkSettingsError: "network-settings"}
    code = next((code for kind, code in codes.items() if isinstance(error, kind)), "service-changed")
    return {"code": code, "detail": _sentence(error)}
