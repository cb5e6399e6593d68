"""Put measured figures on a card with the very command that users repeat: ``python -m service evaluate``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def evaluate_model(folder: Path, variant: str, data: Path, dataset: str) -> dict[str, object]:
    """Evaluate an exported model as the service runs it.

    Args:
        folder: ``<models>/<name>/<version>``.
        variant: ``binary``, ``reference`` or ``full``.
        data: labelled images (``<wnid>/*``) or a drive (``left/`` and its ground truth).
        dataset: what the card calls the data.

    Returns:
        An entry of the card's ``metrics``: {dataset, variant, n, values}.

    Raises:
        ValueError: if the command fails; its own message is passed on.
    """
    command = [sys.executable, "-m", "service", "evaluate", "--model", folder.parent.name]
    command += ["--variant", variant, "--data", str(data), "--json"]
    environment = os.environ | {"BIREAL_MODEL_DIR": str(folder.parent.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603  # our own interpreter and module
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ValueError(f"`python -m service evaluate` failed for {folder.parent.name} {variant}: {lines[-1]}")
    figures = json.loads(done.stdout)
    count = int(figures.pop("n"))
    values = {k: float(v) for k, v in figures.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {"dataset": dataset, "variant": variant, "n": count, "values": values}
