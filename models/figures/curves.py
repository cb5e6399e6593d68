"""Curves of a training run, from its ``log.jsonl``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from models.figures.style import BLUE, GREY, ORANGE

WINDOW = 8  # logged steps in a running mean
#: The metrics that choose a network: of a classifier, a depth network, and an encoder on mosaics.
METRICS = {"top1": "top-1", "delta1": "delta < 1.25", "correlation": "correlation of feature maps"}


def read_log(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(step records, held-out records) of a run, in the order of training.

    Older logs of runs that were killed and resumed repeat the steps after a checkpoint; the last record of a step wins.

    Raises:
        ValueError: the log has no steps.
    """
    records = [json.loads(line) for line in path.read_text().splitlines()]
    steps = {(r["epoch"], r["step"]): r for r in records if "loss" in r}
    held_out = {r["epoch"]: r for r in records if "held_out" in r}
    if not steps:
        raise ValueError(f"{path} has no steps: is it a log.jsonl written by models.train?")
    return [steps[at] for at in sorted(steps)], [held_out[epoch] for epoch in sorted(held_out)]


def position(record: dict[str, Any], per_epoch: int) -> float:
    """Number of epochs trained at a step's record."""
    return float(record["epoch"]) + float(record["step"]) / per_epoch


def draw(path: Path, title: str) -> Figure:
    """Draw loss and accuracy over epochs and, for 1-bit networks, flipped signs and activations inside [-1, 1].

    Accuracy is top-1 for a classifier, the share of pixels with delta < 1.25 for a depth network, and for an encoder
    on mosaics of photos the correlation of its feature maps with the pretrained network's.
    """
    steps, held_out = read_log(path)
    metric = next((m for m in METRICS if held_out and m in held_out[0]["held_out"]), "top1")
    per_epoch = max(int(r["step"]) for r in steps)
    x = [position(r, per_epoch) for r in steps]
    binary = any(r.get("activations_inside") is not None for r in steps) or any(r["flipped_signs"] for r in steps)
    figure = Figure(figsize=(9, 2.6))
    axes = figure.subplots(1, 3 if binary else 2)

    def line(ax: Any, key: str, colour: str, label: str) -> None:
        pairs = [(at, r[key]) for at, r in zip(x, steps, strict=True) if r.get(key) is not None]
        if not pairs:
            return
        at, values = (np.array(v, float) for v in zip(*pairs, strict=True))
        width = min(WINDOW, len(values))
        mean = np.convolve(values, np.full(width, 1.0 / width), "valid")
        ax.plot(at, values, color=colour, alpha=0.25, linewidth=0.7)
        ax.plot(at[width - 1 :], mean, color=colour, label=label)

    line(axes[0], "loss", BLUE, "loss")
    axes[0].set_title(f"{title}: loss")
    line(axes[1], "train_top1", GREY, "training crops")
    axes[1].plot(
        [r["epoch"] for r in held_out], [r["held_out"][metric] for r in held_out], "o-", color=ORANGE, label="held out"
    )
    axes[1].set_title(METRICS[metric])
    axes[1].legend()
    if binary:
        line(axes[2], "flipped_signs", BLUE, "signs flipped since the last record")
        line(axes[2], "activations_inside", ORANGE, "activations inside [-1, 1]")
        axes[2].set_yscale("log")
        axes[2].set_title("shares")
        axes[2].legend()
    for ax in axes:
        ax.set_xlabel("epoch")
    figure.tight_layout()
    return figure
