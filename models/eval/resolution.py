"""``python -m models.eval.resolution CHECKPOINT --data DIR``: find the input size at which a classifier scores best.

Random crops make objects appear larger in training than in a whole image, so a test resolution somewhat above the
training resolution scores better. The size is chosen on the held-out training images.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from models.command_line import Distinct, Parser, count, expects, show
from models.eval.held_out import trained
from models.train.classify import accuracy


@expects(OSError, ValueError)
def main() -> int:
    """Print held-out top-1 and top-5 by input size as JSON."""
    parser = Parser(prog="python -m models.eval.resolution", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="checkpoint of a classifier")
    parser.add_argument("--data", type=Path, required=True, help="the data folder it was trained on")
    parser.add_argument(
        "--sizes",
        type=count,
        nargs="+",
        action=Distinct,
        default=[64, 80, 96, 112, 128, 144],
        help="input sizes to compare, in pixels",
    )
    args = parser.parse_args()
    run = trained(args.checkpoint, args.data)
    rows = [{"size": size, **accuracy(run.network, run.served(size), size)} for size in args.sizes]
    show(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
