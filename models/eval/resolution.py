"""``python -m models.eval.resolution CHECKPOINT --data DIR``: at which input size does a classifier score best?

A network trained on random crops sees objects larger in training than in a whole image, so a somewhat larger test
resolution than the training one scores better. Chosen on the held-out part of the training images.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from models.command_line import Parser
from models.data.folder import hold_out, load_split
from models.train import checkpoint
from models.train.classify import DECODE_SIZE, accuracy
from models.train.recipes import get_recipe


def main() -> int:
    """Print held-out top-1 and top-5 by input size as JSON."""
    parser = Parser(prog="python -m models.eval.resolution", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 72, 80, 96])
    args = parser.parse_args()
    try:
        network = checkpoint.load_network(args.checkpoint)
        recipe = get_recipe(checkpoint.load(args.checkpoint)["recipe"])
        _, held_out = hold_out(load_split(args.data, "train", DECODE_SIZE), recipe.hold_out_per_class)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = [{"size": size, **accuracy(network, held_out, size)} for size in args.sizes]
    print(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
