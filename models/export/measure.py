"""Measures the metrics on a card with the command that users can repeat: ``python -m service evaluate``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from models.export.card import write_model
from models.export.readings import Occasion
from service.card import Card


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
        occasion: logs the evaluation as a reading of the data; None if it does not count as one.

    Raises:
        ValueError: the command failed, or could not read one of the files; the message says why and names the file.
    """
    model = f"{folder.parent.name}@{folder.name}"
    command = [sys.executable, "-m", "service", "evaluate", "--model", model]
    command += ["--variant", variant, "--data", str(data), "--json", *options]
    environment = os.environ | {"BIREAL_MODEL_DIR": str(folder.parent.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603  # our own interpreter and module
    if done.returncode != 0:
        raise ValueError(f"`python -m service evaluate` failed for {model}, {variant}: {_reason(done)}")
    printed: dict[str, Any] = json.loads(done.stdout)
    if occasion is not None:
        occasion.log(folder, variant, printed)
    return printed


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Why the command failed: the files that it could not read, else its error, else its last line."""
    try:
        failed = json.loads(done.stdout)["failed"]
    except (ValueError, KeyError, TypeError):  # it printed no scores
        failed = []
    if failed:
        more = f" ({len(failed) - 1} more cannot be read either)" if len(failed) > 1 else ""
        return f"{failed[0]['file']}: {failed[0]['detail']}{more} Replace or remove it."
    lines = done.stderr.strip().splitlines() or ["no message"]
    errors = [line for line in lines if line.startswith("error: ")]  # other lines are those of the progress bar
    return errors[-1].removeprefix("error: ") if errors else lines[-1]


def evaluate_model(folder: Path, variant: str, data: Path, occasion: Occasion) -> dict[str, object]:
    """Evaluate an exported model as the service runs it.

    Args:
        folder: as for `run_evaluation`.
        variant: as for `run_evaluation`.
        data: as for `run_evaluation`.
        occasion: gives the name of the data on the card, and logs the evaluation as a reading of the data.

    Returns:
        An entry of the card's ``metrics``: {dataset, variant, n, values}.

    Raises:
        ValueError: the command failed; its message is included.
    """
    figures = run_evaluation(folder, variant, data, occasion=occasion)
    count = int(figures.pop("n"))
    values = {k: float(v) for k, v in figures.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {"dataset": occasion.dataset, "variant": variant, "n": count, "values": values}


def evaluate_aside(
    card: Card, model: onnx.ModelProto, variants: tuple[str, ...], data: Path, occasion: Occasion
) -> list[dict[str, object]]:
    """Evaluate a model before it is written to its folder, so that a failure leaves what is there as it is.

    Args:
        card: the model's card, without the metrics.
        model: the model.
        variants: the variants to evaluate.
        data: as for `run_evaluation`.
        occasion: as for `evaluate_model`.

    Returns:
        The entries of the card's ``metrics``, one per variant.

    Raises:
        ValueError: see `evaluate_model`.
    """
    with TemporaryDirectory(prefix="bireal-export-") as aside:
        folder = write_model(card, model, Path(aside))
        return [evaluate_model(folder, variant, data, occasion) for variant in variants]
