"""``python -m models.import_official CHECKPOINT --depth 18|34|50 --out DIR``: convert others' weights to a model.

Reads checkpoints of the official Bi-Real PyTorch code, and of ResNets with the names of torchvision and timm (as
``full``). Writes DIR/<name>/<version>/ with model.onnx and card.yaml. The service serves it if DIR is its model folder.
A model that is already there is replaced only with --overwrite.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from models.command_line import Parser, expects, show
from models.export.card import make_card, write_model
from models.export.convert import to_onnx
from models.export.options import add_model, check_unused
from models.export.verify import VerificationError, verify
from models.import_official.classes import generic_classes, read_class_file
from models.import_official.convert import to_network
from models.import_official.preprocessing import RECIPE, SIZE, shorter_side
from models.import_official.reading import read_state_dict
from models.train import checkpoint
from models.train.recipe import CLASSES_LIMIT, Recipe
from models.train.settings import settings_of

LIMITS = (
    "Imported weights: the authors' published accuracy holds for their own code; evaluate it before you rely on it.",
    CLASSES_LIMIT,
    "Probabilities are not calibrated.",
)


def import_checkpoint(args: argparse.Namespace) -> dict[str, object]:
    """Import one checkpoint as the parsed arguments say, and return a summary for printing.

    Raises:
        FileNotFoundError, ValueError: bad arguments or files; a mismatch lists the missing and unexpected tensors.
        VerificationError: the graph's outputs differ from PyTorch's.
    """
    if args.size < 32 or args.size % 32:
        # The average pool of the official code drops an odd last row and ours does not; multiples of 32 avoid the case.
        raise ValueError(f"--size {args.size} is not a multiple of 32")
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out {args.out} is a file: give a folder")
    if args.checkpoint_out and args.checkpoint_out.is_dir():
        raise ValueError(f"--checkpoint-out {args.checkpoint_out} is a folder: give a file name")
    if args.checkpoint_out and args.checkpoint_out.exists() and not args.overwrite:
        raise ValueError(
            f"--checkpoint-out {args.checkpoint_out} exists: give another name, or replace it with --overwrite"
        )
    imported = to_network(read_state_dict(args.checkpoint), args.depth)
    network = imported.network
    arch = network.config
    count = arch.num_classes
    classes = read_class_file(args.classes, count) if args.classes else generic_classes(count)
    name = args.name or f"{'bireal' if arch.binary else 'resnet'}{arch.depth}-imported"
    check_unused(args.out, name, args.version, overwrite=args.overwrite)
    model = to_onnx(network, args.size, args.size, stem_precision=args.stem, pointwise_precision=args.pointwise)
    agreement = verify(network, model, args.size, args.size)
    recipe = Recipe(
        name=RECIPE,
        arch=arch,
        phases=(),
        batch=0,
        source=imported.kind,
        data=args.data,
        terms=args.terms,
        limits=LIMITS,
        init=args.full or f"resnet{arch.depth}-imported",
        size=args.size,
        resize_shorter=shorter_side(args.size),
    )
    notes = f"Imported from a checkpoint of {imported.kind}."
    if imported.zero_weights:
        notes += (
            f" {imported.zero_weights} of its 1-bit weights are exactly zero: their sign is +1 here (paper Eq. 1), "
            "but 0 in the official code, which uses torch.sign."
        )
    options = f"--depth {arch.depth} --size {args.size} --stem {args.stem} --pointwise {args.pointwise}"
    card = make_card(
        name,
        args.version,
        arch,
        recipe,
        model,
        height=args.size,
        width=args.size,
        classes=classes,
        stem_precision=args.stem,
        pointwise_precision=args.pointwise,
        provenance={
            "command": f"python -m models.import_official {args.checkpoint.name} {options} --name {name} --out DIR",
            "hardware": "not known",
        },
        wall_time_s=0.0,
        notes=notes,
        metrics=[],
    )
    folder = write_model(card, model, args.out)
    if args.checkpoint_out:
        # with the settings, from which `models.export` knows how images are to be prepared
        settings = settings_of(recipe)
        checkpoint.save(args.checkpoint_out, network, arch, recipe.name, checkpoint.Progress(), settings=settings)
    return {
        "folder": str(folder),
        "kind": imported.kind,
        "classes": count,
        "zero_weights": imported.zero_weights,
        "agreement": agreement,
    }


@expects(OSError, ValueError, VerificationError)
def main(arguments: list[str] | None = None) -> int:
    """Parse arguments, import the checkpoint, print a summary as JSON."""
    parser = Parser(
        prog="python -m models.import_official",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="a .pth file: a state dict, or a dictionary that contains one")
    parser.add_argument("--depth", type=int, required=True, help="layers: 18, 34 or 50 (ResNet: also 152)")
    add_model(parser, "bireal<depth>-imported or resnet<depth>-imported")
    parser.add_argument(
        "--checkpoint-out",
        type=Path,
        help="also write a checkpoint for `models.train --init`; --overwrite replaces this file, too",
    )
    parser.add_argument("--classes", type=Path, help="class list in output order (default: class 0, class 1, ...)")
    parser.add_argument("--full", help="full-precision twin of a Bi-Real net (default: resnet<depth>-imported)")
    parser.add_argument("--size", type=int, default=SIZE, help="input height and width, a multiple of 32 (default 224)")
    parser.add_argument(
        "--data", default="ImageNet-1k, by the checkpoint's authors", help="training data, for the card"
    )
    parser.add_argument("--terms", default="those of the checkpoint's source", help="terms of use, for the card")
    args = parser.parse_args(arguments)
    show(json.dumps(import_checkpoint(args), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
