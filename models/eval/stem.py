"""``python -m models.eval.stem CHECKPOINT --data DIR``: what does the stem's precision cost in accuracy?

Exports a classifier with each stem precision and evaluates the bit-packed variant on the held-out part of the training
images. The choice is a property of the exported file and written on its card.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

from models.arch.bireal import BiRealNet
from models.command_line import Parser
from models.data.folder import ImageSet, hold_out, load_split
from models.export.convert import to_onnx
from models.export.packed_ops import STEM_PRECISIONS
from models.train import checkpoint
from models.train.classify import DECODE_SIZE
from models.train.recipes import get_recipe
from service.xnor_op import library_path


def top1(network: BiRealNet, data: ImageSet, precision: str) -> float:
    """Top-1 (fraction) of the bit-packed graph with one stem precision, images at their own size."""
    height, width = data.images[:1].shape[1:3]
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(library_path()))
    content = to_onnx(network, height, width, stem_precision=precision).SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    batches = (data.images[start : start + 50] for start in range(0, len(data), 50))
    answers = np.concatenate([session.run(None, {"image": images})[0].argmax(axis=1) for images in batches])
    return float((answers == data.labels).mean())


def main() -> int:
    """Print held-out top-1 by stem precision as JSON."""
    parser = Parser(prog="python -m models.eval.stem", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    try:
        network = checkpoint.load_network(args.checkpoint)
        recipe = get_recipe(checkpoint.load(args.checkpoint)["recipe"])
        _, held_out = hold_out(load_split(args.data, "train", DECODE_SIZE), recipe.hold_out_per_class)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not isinstance(network, BiRealNet):
        print(f"error: {args.checkpoint} is not a binary classifier: only its stem has a precision", file=sys.stderr)
        return 2
    rows = [{"stem": p, "top1": top1(network, held_out, p), "n": len(held_out)} for p in STEM_PRECISIONS]
    print(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
