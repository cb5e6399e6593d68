"""Measures the metrics on a card with the command that users can repeat: ``python -m service evaluate``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from models.export.readings import Occasion


def run_evaluation(
    folder: Path, variant: str, data: Path, *options: str, occasion: Occasion | None = None
) -> dict[str, Any]:
    """The output of ``python -m service evaluate --json`` for one version of a model.

    Args:
        folder: ``<models>/<name>/<version>``. The command gets this version explicitly, because the name alone may
            select another one.
        variant: ``binary``, ``reference`` or ``full``.
        data: labelled images (``<wnid>/*``) or a drive (``left/`` and its ground truth).
        options: additional options of the command.
        occasion: logs the evaluation as a reading of the drive; None if it does not count as one.

    Raises:
        ValueError: the command failed; its message is included.
    """
    model = f"{folder.parent.name}@{folder.name}"
    command = [sys.executable, "-m", "service", "evaluate", "--model", model]
    command += ["--variant", variant, "--data", str(data), "--json", *options]
    environment = os.environ | {"BIREAL_MODEL_DIR": str(folder.parent.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603  # our own interpreter and module
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ValueError(f"`python -m service evaluate` failed for {model}, {variant}: {lines[-1]}")
    printed: dict[str, Any] = json.loads(done.stdout)
    if occasion is not None:
        occasion.log(folder, variant, printed)
    return printed


def evaluate_model(folder: Path, variant: str, data: Path, occasion: Occasion) -> dict[str, object]:
    """Evaluate an exported model as the service runs it.

    Args:
        folder: as for `run_evaluation`.
        variant: as for `run_evaluation`.
        data: as for `run_evaluation`.
        occasion: gives the name of the data on the card, and logs the evaluation as a reading of the drive.

    Returns:
        An entry of the card's ``metrics``: {dataset, variant, n, values}.

    Raises:
        ValueError: the command failed; its message is included.
    """
    figures = run_evaluation(folder, variant, data, occasion=occasion)
    count = int(figures.pop("n"))
    values = {k: float(v) for k, v in figures.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {"dataset": occasion.dataset, "variant": variant, "n": count, "values": values}
