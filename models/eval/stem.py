"""``python -m models.eval.stem CHECKPOINT --data DIR``: measure the accuracy cost of the stem's precision.

Exports a classifier with each stem precision and evaluates the bit-packed variant on the held-out training images. The
chosen precision is a property of the exported file and is recorded on its card.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from models.arch.bireal import BiRealNet
from models.command_line import Parser, expects, show
from models.data.augment import whole
from models.data.folder import ImageSet
from models.eval.held_out import trained
from models.export.convert import to_onnx
from models.export.packed_ops import STEM_PRECISIONS
from service.xnor_op import library_path


def top1(network: BiRealNet, data: ImageSet, size: int, precision: str) -> float:
    """Top-1 (fraction) of the bit-packed graph with one stem precision, images scaled to ``size`` pixels."""
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(library_path()))
    content = to_onnx(network, size, size, stem_precision=precision).SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    answers = []
    for start in range(0, len(data), 50):
        pixels = whole(torch.from_numpy(data.images[start : start + 50]), size).permute(0, 2, 3, 1)
        images = pixels.round().to(torch.uint8).contiguous().numpy()
        answers.append(session.run(None, {"image": images})[0].argmax(axis=1))
    return float((np.concatenate(answers) == data.labels).mean())


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
    args = parser.parse_args()
    run = trained(args.checkpoint, args.data)
    network = binary(run.network, args.checkpoint)
    images = run.served(run.size)
    found = {precision: top1(network, images, run.size, precision) for precision in STEM_PRECISIONS}
    rows = [{"stem": precision, "top1": score, "n": len(images)} for precision, score in found.items()]
    show(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
