"""``python -m models.eval.outside MODEL_DIR --inside DIR --outside NAME DIR ...``: what it says of other things.

A classifier gives every image one of its classes. This measures how far its stated probability tells photos of its
classes from photos of none of them: the mean probability of the named class, the share of images above two thresholds,
and the AUROC, the chance that a random photo of a class gets a higher probability than a random one of none. Prints one
JSON document, which ``models.eval.page --outside`` puts on the model's page.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.command_line import Parser, count, expects, show
from models.eval.parity import load_images
from service.backends import backend_for
from service.card import Card
from service.errors import ServiceError
from service.tasks.classify import ClassifyOptions, ClassifyTask

THRESHOLDS = (0.5, 0.9)


def stated_probabilities(card: Card, folders: Sequence[Path], limit: int) -> NDArray[np.float64]:
    """Probability of the named class for up to ``limit`` images of every folder, float64 [N].

    Raises:
        FileNotFoundError: a folder has no image.
    """
    model = backend_for(card.variants[0]).load(card, card.variants[0], intra_op_threads=1)
    task, options = ClassifyTask(), ClassifyOptions(top_k=1)
    images = (image for folder in folders for image in load_images(card, folder, limit))
    answers = (task.postprocess(model.run(image[None])[0], None, card, options) for image in images)
    return np.asarray([answer.predictions[0].probability for answer in answers], dtype=np.float64)


def auroc(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """Chance that a random value of ``inside`` is above one of ``outside``; ties count half."""
    ordered = np.sort(outside)
    below, not_above = (np.searchsorted(ordered, inside, side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(outside)))


def summary(values: NDArray[np.float64]) -> dict[str, Any]:
    """Number, mean, and the shares at or above the `THRESHOLDS`."""
    shares = {f"{threshold:g}": float((values >= threshold).mean()) for threshold in THRESHOLDS}
    return {"n": len(values), "mean": float(values.mean()), "share_at_least": shares}


@expects(OSError, ValueError, ServiceError)
def main() -> int:
    """Measure and print."""
    parser = Parser(prog="python -m models.eval.outside", description=__doc__)
    parser.add_argument("model", type=Path, help="<models>/<name>/<version> of a classifier")
    parser.add_argument("--inside", type=Path, required=True, help="photos of the model's classes")
    parser.add_argument(
        "--outside",
        nargs="+",
        action="append",
        required=True,
        metavar=("NAME", "DIR"),
        help="a name for the page, and folders of photos that show none of the classes (repeatable)",
    )
    parser.add_argument("--limit", type=count, default=500, help="most images of a folder (default 500)")
    args = parser.parse_args()
    if any(len(named) < 2 for named in args.outside):
        parser.error("argument --outside: give a name and at least one folder")
    show(json.dumps(measured(args), indent=1))
    return 0


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """The document for the parsed arguments.

    Raises:
        FileNotFoundError, ServiceError: the model or the photos cannot be read.
        ValueError: the model is no classifier.
    """
    card = Card.load(args.model)
    if card.task != "classify":
        raise ValueError(f"{card.name} is no classifier: it states no probabilities")
    inside = stated_probabilities(card, [args.inside], sys.maxsize)
    others = []
    for name, *folders in args.outside:
        values = stated_probabilities(card, [Path(folder) for folder in folders], args.limit)
        others.append({"name": name, **summary(values), "auroc": auroc(inside, values)})
    return {"sha256": card.sha256, "variant": card.variants[0], "inside": summary(inside), "outside": others}


if __name__ == "__main__":
    sys.exit(main())
