"""``python -m models.eval.calibration CHECKPOINT --data DIR``: fit the temperature that calibrates a classifier.

Temperature scaling (C. Guo et al., 2017): the logits are divided by the one number that minimises the negative
log-likelihood of held-out training images, preprocessed as in serving. ``models.export --temperature`` folds it into
the last layer, so that every variant of the file returns calibrated probabilities. The ranking of classes is unchanged.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import nn

from models.command_line import Parser, count, expects, show
from models.data.augment import whole
from models.data.folder import ImageSet
from models.data.normalise import normalise
from models.eval.held_out import trained
from service.calibration import expected_calibration_error

RANGE = (0.05, 20.0)  # search range of the temperature


def negative_log_likelihood(logits: NDArray[np.float64], labels: NDArray[np.int64], temperature: float) -> float:
    """Mean -log p of the true classes, for logits [N,classes] and labels [N]."""
    scaled = logits / temperature
    shifted = scaled - scaled.max(axis=1, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(axis=1))
    return float(np.mean(log_total - shifted[np.arange(len(labels)), labels]))


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The temperature that minimises the negative log-likelihood (convex in 1 / temperature)."""
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(logits, labels, float(np.exp(log_t))),
        bounds=(float(np.log(RANGE[0])), float(np.log(RANGE[1]))),
        method="bounded",
    )
    return float(np.exp(found.x))


def undetermined(temperature: float) -> bool:
    """Whether it is at a limit of the search, as for a network that is right on every held-out image."""
    return bool(np.isclose(temperature, RANGE, rtol=0.01).any())


@torch.no_grad()
def logits_of(network: nn.Module, data: ImageSet, size: int) -> NDArray[np.float64]:
    """Logits [N,classes] of whole images scaled to ``size`` pixels (0 keeps their size)."""
    network.eval()
    answers = []
    for start in range(0, len(data), 100):
        x = whole(torch.from_numpy(data.images[start : start + 100]), size)
        answers.append(network(normalise(x)))
    return torch.cat(answers).double().numpy()


def report(logits: NDArray[np.float64], labels: NDArray[np.int64], temperature: float) -> dict[str, float]:
    """Calibration of the predictions at a temperature: ``nll`` and ``ece``."""
    scaled = logits / temperature
    p = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return {
        "nll": negative_log_likelihood(logits, labels, temperature),
        "ece": expected_calibration_error(p.max(axis=1), p.argmax(axis=1) == labels),
    }


@expects(OSError, ValueError)
def main() -> int:
    """Print the temperature, and the held-out metrics before and after it, as JSON."""
    parser = Parser(prog="python -m models.eval.calibration", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="checkpoint of a classifier")
    parser.add_argument("--data", type=Path, required=True, help="the data folder it was trained on")
    parser.add_argument("--size", type=count, help="input size in serving, in pixels (default: from the recipe)")
    args = parser.parse_args()
    run = trained(args.checkpoint, args.data)
    size = args.size or run.size
    logits = logits_of(run.network, run.served(size), size)
    labels = run.held_out.labels
    temperature = fit_temperature(logits, labels)
    if undetermined(temperature):
        low, high = RANGE
        print(
            f"The temperature is at a limit of the search ({low:g} to {high:g}): {len(labels)} held-out images do not "
            "determine it.",
            file=sys.stderr,
        )
    before, after = (report(logits, labels, t) for t in (1.0, temperature))
    show(json.dumps({"temperature": temperature, "n": len(labels), "before": before, "after": after}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
