"""``python -m models.figures``: draw the paper's analysis figures from checkpoints, and write their page.

    python -m models.figures --bireal PT --original PT --relu PT --clip PT --images DIR --out docs/figures
    python -m models.figures --log RUN/log.jsonl --title bireal18-tiny100 --out docs/figures

The first command takes four 18-layer networks of structure ``bireal``: 1-bit networks trained with the magnitude-aware
and with the original update, and real-valued ones with ReLU and with clip. ``--size`` must be the image size they were
trained at. The second command draws the curves of a training run.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from models.ablation.grid import Budget
from models.ablation.task import load_folder, scaled
from models.arch import BiRealNet
from models.binarize.base import Phase
from models.command_line import Parser, count, expects
from models.data.normalise import normalise
from models.figures import approximations, capability, curves, distributions
from models.figures.page import page
from models.figures.style import save
from models.train.checkpoint import load, load_network
from models.train.provenance import hardware

LAYERS = ["stages.0.0.body", "stages.1.1.body", "stages.3.3.body"]
IMAGES_A_CLASS = 20


def network_at(path: Path) -> BiRealNet:
    """Load the network of a checkpoint.

    Raises:
        ValueError: it is not a network of basic blocks with a shortcut around every convolution.
    """
    network = load_network(path)
    if not isinstance(network, BiRealNet) or network.config.structure != "bireal" or network.config.bottleneck:
        raise ValueError(f"{path} is not a Bi-Real net of 18 or 34 layers (method bireal, structure bireal)")
    return network


def analyse(args: argparse.Namespace) -> dict[str, Any]:
    """Draw the figures and return the numbers for their page."""
    networks = {name: network_at(getattr(args, name)) for name in ("bireal", "original", "relu", "clip")}
    images, _ = load_folder(args.images, IMAGES_A_CLASS)
    x = normalise(scaled(torch.from_numpy(images).permute(0, 3, 1, 2).float(), args.size))
    out: Path = args.out
    save(approximations.draw(), out / "fig7-approximations.svg")
    weights = [f"{name}.conv" for name in LAYERS]
    save(distributions.draw_weights(networks["bireal"], weights), out / "fig8-weights.svg")
    behind = {
        "relu": distributions.activations(networks["relu"], x, Phase.RELU),
        "clip": distributions.activations(networks["clip"], x, Phase.CLIP),
    }
    signs = [f"{name}.sign" for name in LAYERS]
    save(distributions.draw_activations(behind["relu"], behind["clip"], signs), out / "fig9-activations.svg")
    return {
        "areas": {name: approximations.shaded_area(name) for name in approximations.TITLES},
        "weights": {
            update: {n: vars(m) for n, m in distributions.weight_magnitudes(networks[network]).items()}
            for update, network in (("magnitude", "bireal"), ("original", "original"))
        },
        "activations": {
            name: {
                layer: {
                    "at_minus_one": (values <= -1).float().mean().item(),
                    "zero": (values == 0).float().mean().item(),
                    "at_plus_one": (values >= 1).float().mean().item(),
                    "negative": (values < 0).float().mean().item(),
                }
                for layer, values in found.items()
            }
            for name, found in behind.items()
        },
        "capability": [
            vars(c) | {"shortcut_choices": str(c.shortcut_choices)} for c in capability.layers(networks["bireal"], x)
        ],
        "distinct_sums": capability.distinct_sums(networks["bireal"], x),
        "networks": {name: load(getattr(args, name))["recipe"] for name in networks},
        "images": len(images),
        "size": args.size,
        "hardware": hardware(),
        "torch": torch.__version__,
    }


@expects(OSError, ValueError)
def main() -> int:
    """Draw a run's curves, or the figures and their page."""
    parser = Parser(prog="python -m models.figures", description=__doc__.splitlines()[0])
    for name in ("bireal", "original", "relu", "clip"):
        parser.add_argument(f"--{name}", type=Path, help="checkpoint, see models/figures/__main__.py")
    parser.add_argument("--images", type=Path, help="folder of 32x32 images, <class>/<image>, for activations")
    parser.add_argument(
        "--size", type=count, default=Budget.size, help=f"size that images are scaled to (default {Budget.size})"
    )
    parser.add_argument("--log", type=Path, help="a run's log.jsonl: draw its curves instead")
    parser.add_argument("--title", default="", help="title of the curves, also used in their file name")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), help="output folder (default docs/figures)")
    args = parser.parse_args()
    if args.log:
        title = args.title or args.log.parent.name
        save(curves.draw(args.log, title), args.out / f"curves-{title}.svg")
        return 0
    missing = [n for n in ("bireal", "original", "relu", "clip", "images") if getattr(args, n) is None]
    if missing:
        parser.error(f"give --log, or all of --bireal, --original, --relu, --clip, --images ({missing[0]} is missing)")
    numbers = analyse(args)
    (args.out / "figures.json").write_text(json.dumps(numbers, indent=1) + "\n")
    (args.out / "README.md").write_text(page(numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
