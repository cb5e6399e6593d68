"""``python -m models.export CHECKPOINT --out DIR``: write a servable model folder, verified against PyTorch.

A model that is already in DIR/<name>/<version>/ is replaced only with --overwrite.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.arch import ArchConfig
from models.arch.depth import DepthNet
from models.command_line import Parser, count, expects, show
from models.data.folder import ClassName, read_classes
from models.data.kitti import HEIGHT, WIDTH
from models.export.card import LIMITS, make_card, write_model
from models.export.convert import to_onnx
from models.export.measure import evaluate_aside
from models.export.options import add_model, check_unused
from models.export.readings import FOLDER, occasion
from models.export.verify import VerificationError, verify
from models.import_official.classes import generic_classes
from models.import_official.preprocessing import RECIPE as IMPORTED
from models.import_official.preprocessing import shorter_side
from models.train import checkpoint
from models.train.provenance import FILE, read_provenance
from models.train.recipe import Recipe
from models.train.recipes import RECIPES
from models.train.settings import CALIBRATION
from service.card import Card

UNKNOWN = "Not trained by a recipe of models.train: evaluate it before you rely on it."
UNKNOWN_LIMITS = {task: (UNKNOWN, *limits) for task, limits in LIMITS.items()}


def divide_logits(network: nn.Module, temperature: float) -> None:
    """Fold a calibration temperature into a classifier's last layer.

    Raises:
        ValueError: the network is not a classifier, or the temperature is not positive.
    """
    layer = getattr(network, "fc", None)
    if not isinstance(layer, nn.Linear) or not temperature > 0:
        raise ValueError(f"--temperature {temperature:g}: needs a classifier and a positive number")
    with torch.no_grad():
        layer.weight.div_(temperature)
        layer.bias.div_(temperature)


def calibration(temperature: float) -> str:
    """The card's statement on a classifier's probabilities."""
    if temperature == 1.0:
        return "Probabilities are not calibrated."
    return (
        f"Probabilities are calibrated (temperature {temperature:.3f}, fitted on the held-out part of the training "
        "images) for images of its classes; for anything else they mean nothing."
    )


def unknown_recipe(name: str, arch: ArchConfig, size: int | None, settings: dict[str, Any] | None = None) -> Recipe:
    """What the card of a checkpoint without a recipe states: of an ablation cell, or of imported weights.

    ``settings`` are those in the checkpoint (`models.train.settings`). They give the input size and the shorter side
    that images are scaled to; older checkpoints of imported weights lack them and were all made for the same crop.

    Raises:
        ValueError: a classifier whose input size is unknown.
    """
    kept = settings or {}
    known = kept.get("size") or size
    shorter = kept.get("resize_shorter", shorter_side(known) if known and name == IMPORTED else 0)
    if known is None and arch.task == "classify":
        raise ValueError(f"the checkpoint's recipe {name!r} is unknown: give the input size with --size")
    twin = f"resnet{arch.depth}-imported"  # its name in models.import_official
    unknown = "not known"
    return Recipe(
        name=name,
        arch=arch,
        phases=(),
        batch=0,
        source=unknown,
        data=unknown,
        terms=unknown,
        limits=UNKNOWN_LIMITS[arch.task],
        init=twin,
        size=known or 64,
        serve_size=kept.get("serve_size", 0),
        resize_shorter=shorter,
    )


def export(args: argparse.Namespace) -> dict[str, object]:
    """Export one checkpoint as the parsed arguments say, and return a summary for printing.

    Raises:
        FileNotFoundError, ValueError: bad arguments or files, or the evaluation failed; nothing was written.
        VerificationError: the graph's outputs differ from PyTorch's.
    """
    payload = checkpoint.load(args.checkpoint)
    checkpoint.check_binarised(payload, args.checkpoint)
    arch = ArchConfig(**payload["arch"])
    if arch.task == "classify":
        checkpoint.check_classifies(payload, args.checkpoint)
    settings = payload.get("settings") or {}
    known = payload["recipe"] in RECIPES
    recipe = RECIPES[payload["recipe"]] if known else unknown_recipe(payload["recipe"], arch, args.size, settings)
    name = args.name or recipe.name
    check_unused(args.out, name, args.version, overwrite=args.overwrite)
    network = checkpoint.load_network(args.checkpoint)
    depth = isinstance(network, DepthNet)
    if depth and (args.size or args.classes):
        raise ValueError(f"--size and --classes are for classifiers: a depth network's input is {HEIGHT}x{WIDTH}")
    height, width = (HEIGHT, WIDTH) if depth else (args.size or recipe.serve_size or recipe.size,) * 2
    classes: tuple[ClassName, ...] = ()
    if not depth:
        if args.classes is None and known:
            raise ValueError("exporting a classifier needs --classes DIR, the data folder with its *classes.json")
        classes = read_classes(args.classes) if args.classes else generic_classes(arch.num_classes)
        if len(classes) != arch.num_classes:
            raise ValueError(
                f"--classes {args.classes} lists {len(classes)} classes, but the network has {arch.num_classes} "
                "outputs: give the data folder that it was trained on"
            )
    if args.temperature != 1.0:
        divide_logits(network, args.temperature)
    model = to_onnx(network, height, width, stem_precision=args.stem, pointwise_precision=args.pointwise)
    agreement = verify(network, model, height, width)
    backbone = network.encoder if isinstance(network, DepthNet) else network
    beside = known or (args.checkpoint.parent / FILE).is_file()
    provenance = read_provenance(args.checkpoint) if beside else {"command": "not known", "hardware": "not known"}

    def card_with(metrics: list[dict[str, object]]) -> Card:
        return make_card(
            name,
            args.version,
            arch,
            recipe,
            model,
            height=height,
            width=width,
            classes=classes,
            stem_precision=args.stem,
            pointwise_precision=args.pointwise,
            provenance=provenance,
            wall_time_s=payload["progress"]["wall_s"],
            notes=args.notes,
            metrics=metrics,
            # a recovered network has the temperature of its model in its last layer (models.train.recover)
            calibration=(settings.get(CALIBRATION) if args.temperature == 1.0 else None)
            or calibration(args.temperature),
        )

    metrics: list[dict[str, object]] = []
    card = card_with(metrics)
    args.out.mkdir(parents=True, exist_ok=True)  # fails before the evaluation, not after it
    if args.evaluate is not None:
        variants = ("binary", "reference") if backbone.config.binary else ("full",)
        now = occasion("models.export", args.dataset, args.readings)
        metrics = evaluate_aside(card, model, variants, args.evaluate, now)
        card = card_with(metrics)
    folder = write_model(card, model, args.out)
    return {"folder": str(folder), "agreement": agreement, "metrics": metrics}


@expects(OSError, ValueError, VerificationError)
def main() -> int:
    """Parse arguments, export, print a summary as JSON."""
    parser = Parser(prog="python -m models.export", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="checkpoint to export")
    add_model(parser, "the recipe's name")
    parser.add_argument("--size", type=count, help="input size of a classifier in pixels (default: from the recipe)")
    parser.add_argument(
        "--classes", type=Path, help="data folder with *classes.json; required for classifiers trained by a recipe"
    )
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="divide a classifier's logits by this (models.eval.calibration)"
    )
    parser.add_argument("--evaluate", type=Path, help="labelled folder or drive to evaluate on for the card")
    parser.add_argument("--dataset", default="dev", help="name of that data in the card (default dev)")
    parser.add_argument("--readings", type=Path, default=FOLDER, help="folder of the logs of evaluations (docs/models)")
    parser.add_argument("--notes", default="", help="free text for the card")
    args = parser.parse_args()
    show(json.dumps(export(args), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
