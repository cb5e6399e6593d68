"""``python -m models.eval.parity FOLDER --data DIR``: check that `binary` computes what `reference` does, on images.

For every image, the integer sums and packed signs of each custom operator are compared exactly
(service/backends/audit.py), and the outputs of the two variants statistically. Prints one JSON document.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from models.command_line import Parser, count, expects, show
from service.backends import backend_for
from service.backends.audit import Audit
from service.card import Card
from service.errors import ServiceError
from service.evaluation import is_image
from service.imaging import decode
from service.tasks import TASKS


def load_images(card: Card, root: Path, limit: int) -> NDArray[np.uint8]:
    """Up to ``limit`` images under ``root``, evenly spaced, preprocessed as in the service: uint8 [N,H,W,3].

    For a drive only images in ``left/`` are used, because right images and ground truth are PNG files too.

    Raises:
        FileNotFoundError: there is no image.
        ServiceError: an image cannot be decoded; the message starts with its path.
    """
    paths = sorted(p for p in root.rglob("*") if is_image(p))
    paths = [p for p in paths if p.parent.name == "left"] or paths
    if not paths:
        raise FileNotFoundError(f"{root} has no images: give a folder of photos or of <wnid>/<image>")
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, min(limit, len(paths))).astype(int)]
    return np.stack([_preprocessed(path, card) for path in chosen])


def _preprocessed(path: Path, card: Card) -> NDArray[np.uint8]:
    task = TASKS[card.task]
    try:
        return task.preprocess(decode(path.read_bytes(), hint=task.decode_hint(card)), card).tensor
    except ServiceError as error:
        raise error.about(str(path)) from error


def compare(card: Card, images: NDArray[np.uint8]) -> dict[str, object]:
    """Compare the layers exactly and the outputs statistically."""
    audit = Audit.of_card(card)
    inexact: dict[str, int] = {}
    sums = words = 0
    for image in tqdm(images, desc="audit", unit="img", mininterval=2.0):
        for layer in audit.compare(image[None]):
            sums += layer.sums
            words += layer.words
            if not layer.exact:
                inexact[layer.layer] = inexact.get(layer.layer, 0) + 1
    variants = {v: backend_for(v).load(card, v, intra_op_threads=1) for v in ("binary", "reference")}
    outputs = {v: np.concatenate([m.run(image[None]) for image in images]) for v, m in variants.items()}
    result: dict[str, object] = {
        "model": f"{card.name}@{card.version}",
        "images": len(images),
        "integer_sums_compared": sums,
        "packed_words_compared": words,
        "layers_not_exact": inexact,
    }
    binary, reference = outputs["binary"], outputs["reference"]
    if card.task == "classify":
        result["top1_agreement"] = float((binary.argmax(1) == reference.argmax(1)).mean())
        result["max_logit_difference"] = float(np.abs(binary - reference).max())
    else:
        relative = np.abs(binary - reference) / reference
        result["median_relative_depth_difference"] = float(np.median(relative))
        result["p99_relative_depth_difference"] = float(np.quantile(relative, 0.99))
    return result


@expects(OSError, ServiceError, ValueError)
def main() -> int:
    """Compare and print the result; exit code 1 if a layer is not exact."""
    parser = Parser(prog="python -m models.eval.parity", description=__doc__)
    parser.add_argument("folder", type=Path, help="<models>/<name>/<version> of a binary model")
    parser.add_argument("--data", type=Path, required=True, help="folder of images")
    parser.add_argument("--limit", type=count, default=200, help="maximum number of images (default 200)")
    args = parser.parse_args()
    card = Card.load(args.folder)
    images = load_images(card, args.data, args.limit)
    result = compare(card, images)
    show(json.dumps(result, indent=1))
    return 1 if result["layers_not_exact"] else 0


if __name__ == "__main__":
    sys.exit(main())
