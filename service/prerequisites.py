"""What to say when a program is started with a Python that lacks a package. Imports the standard library only."""

from __future__ import annotations

import sys

_OWN = ("service", "models", "loadtest")


def missing_package(error: BaseException) -> str | None:
    """The package whose absence is the cause of an error.

    Returns:
        Its name; None for any other error, and for a missing module of our own, which is a fault of the program.
    """
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    package = error.name.partition(".")[0]
    return None if package in _OWN else package


def not_installed(package: str, command: str = ".venv/bin/python") -> str:
    """One sentence that names a missing package, and what installs it in a working copy.

    Args:
        package: Name of the package.
        command: What to run after that.
    """
    return f"the package {package} is not installed for {sys.executable}: run `make setup`, then `{command}`."
