"""``python -m models.eval.stem CHECKPOINT --data DIR``: measure the accuracy cost of the stem's precision.

Exports a classifier with each stem precision and evaluates the bit-packed variant on the held-out training images, and
on images that it was trained on: there are far more of these, and the precisions differ by less than a few thousand
images can tell. The chosen precision is a property of the exported file and is recorded on its card.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

from models.arch.bireal import BiRealNet
from models.command_line import Parser, expects, natural, show
from models.data.augment import whole
from models.data.folder import ImageSet
from models.eval.held_out import trained
from models.export.convert import to_onnx
from models.export.packed_ops import STEM_PRECISIONS
from service.statistics import paired_difference
from service.xnor_op import library_path

EXACT = "float32"  # what the other precisions are compared with


def correct(network: BiRealNet, data: ImageSet, size: int, precision: str) -> NDArray[np.bool_]:
    """The images [N] that the bit-packed graph with one stem precision classifies correctly, at ``size`` pixels."""
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(library_path()))
    content = to_onnx(network, size, size, stem_precision=precision).SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    answers = []
    for start in range(0, len(data), 50):
        pixels = whole(torch.from_numpy(data.images[start : start + 50]), size).permute(0, 2, 3, 1)
        images = pixels.round().to(torch.uint8).contiguous().numpy()
        answers.append(session.run(None, {"image": images})[0].argmax(axis=1))
    right: NDArray[np.bool_] = np.concatenate(answers) == data.labels
    return right


def against(exact: NDArray[np.bool_], other: NDArray[np.bool_]) -> dict[str, float]:
    """Difference of two top-1 on the same images (fractions), with its 95 % interval."""
    difference = paired_difference(int((other & ~exact).sum()), int((exact & ~other).sum()), len(exact))
    return {name: float(value) for name, value in difference._asdict().items()}


def binary(network: nn.Module, path: Path) -> BiRealNet:
    """The network, if it has 1-bit layers: its counterpart with an activation is of the same class.

    Raises:
        ValueError: it has none.
    """
    if not (isinstance(network, BiRealNet) and network.config.binary):
        raise ValueError(f"{path} is not a binary classifier: only those have a stem precision")
    return network


@expects(OSError, ValueError)
def main() -> int:
    """Print held-out top-1 by stem precision as JSON."""
    parser = Parser(prog="python -m models.eval.stem", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="checkpoint of a binary classifier")
    parser.add_argument("--data", type=Path, required=True, help="the data folder it was trained on")
    parser.add_argument(
        "--training-images", type=natural, default=20_000, help="how many images of its training set (default 20000)"
    )
    args = parser.parse_args()
    run = trained(args.checkpoint, args.data)
    network = binary(run.network, args.checkpoint)
    held_out, known = run.served(run.size), run.known(run.size, args.training_images)
    rows: list[dict[str, Any]] = []
    for precision in (EXACT, *(other for other in STEM_PRECISIONS if other != EXACT)):
        right = correct(network, held_out, run.size, precision)
        rows.append({"stem": precision, "top1": right.mean(), "n": len(right)})
        if not len(known):
            continue
        right = correct(network, known, run.size, precision)
        if precision == EXACT:
            exact = right
        rows[-1]["training"] = {"top1": right.mean(), "n": len(right), f"against_{EXACT}": against(exact, right)}
    show(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
