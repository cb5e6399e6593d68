"""``python -m models.train RECIPE --data DIR --out DIR [--resume]``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from models.arch import build
from models.command_line import Parser, count, expects, show
from models.train import checkpoint
from models.train.classify import ClassifyTask, check_classes
from models.train.depth import DepthTask
from models.train.depth_teacher import build_teacher, load_any
from models.train.device import best_device
from models.train.hints import add_hints
from models.train.initialise import initialise_from
from models.train.loop import TrainingTask, run
from models.train.mosaic import MosaicTask
from models.train.pretrained import imagenet_network
from models.train.provenance import write_provenance
from models.train.recipe import Recipe
from models.train.recipes import DEPTH_TEACHER, RECIPES, get_recipe
from models.train.streams import scale_first
from models.train.torch_file import first_line


@expects(OSError, ValueError)
def main() -> int:
    """Parse arguments, train, print the progress with the last held-out metrics as JSON."""
    parser = Parser(prog="python -m models.train", description=__doc__)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ (images or drives)")
    parser.add_argument("--out", type=Path, required=True, help="folder for last.pt, best.pt and log.jsonl")
    parser.add_argument("--resume", action="store_true", help="continue from OUT/last.pt")
    parser.add_argument("--init", type=Path, help="checkpoint with initial weights; required if the recipe names one")
    parser.add_argument("--teacher", type=Path, help="checkpoint of the teacher to distil from")
    parser.add_argument("--soft-labels", type=Path, help="output folder of models.train.teacher to distil from")
    parser.add_argument(
        "--accumulate",
        type=int,
        default=1,
        metavar="N",
        help="accumulate gradients over N micro-batches per step, if the whole batch does not fit on the GPU; "
        "BatchNorm then uses micro-batch statistics, and a resumed run needs the same N (default 1)",
    )
    parser.add_argument(
        "--threads", type=count, default=len(os.sched_getaffinity(0)), help="CPU threads (default: all cores)"
    )
    args = parser.parse_args()
    recipe = get_recipe(args.recipe)
    torch.set_num_threads(args.threads)
    try:
        progress = train(args, recipe)
    except torch.OutOfMemoryError as error:
        print(
            f"error: {first_line(error)} Recipe {recipe.name} has a batch size of {recipe.batch}: "
            f"split it into micro-batches with --accumulate {2 * args.accumulate}",
            file=sys.stderr,
        )
        return 1
    show(json.dumps(asdict(progress)))
    return 0


def train(args: argparse.Namespace, recipe: Recipe) -> checkpoint.Progress:
    """Train ``recipe`` as the parsed arguments say.

    Raises:
        FileNotFoundError, ValueError: a file, the data or an argument is invalid; the message says why.
    """
    refuse_unused(args, recipe)
    last: Path = args.out / "last.pt"
    if not args.resume:
        checkpoint.check_unused(args.out)  # fail before the data are loaded and run.json is written
    resumed = args.resume and last.is_file()
    if resumed:
        checkpoint.load_resumable(last, recipe, args.accumulate)  # likewise
    elif recipe.init and not args.init:
        raise ValueError(
            f"recipe {recipe.name} starts from the weights of {recipe.init}: give its checkpoint with --init "
            f"(`python -m models.train {recipe.init}` writes one, best.pt)"
        )
    torch.manual_seed(recipe.seed)
    made = build_teacher(recipe.arch) if recipe.name == DEPTH_TEACHER else build(recipe.arch)
    if recipe.hints > 0:
        add_hints(made, imagenet_network())
    network = made.to(best_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
    if args.init and not resumed:
        fresh = initialise_from(network, args.init)
        print(f"initialised from {args.init}; randomly initialised: {', '.join(fresh) or 'none'}", file=sys.stderr)
    teacher = load_any(args.teacher).to(best_device()) if args.teacher else None
    task: TrainingTask
    if recipe.arch.task == "depth":
        task = DepthTask(recipe, args.data, teacher)
    elif recipe.mosaics:
        task = MosaicTask(recipe, args.data)
    else:
        task = ClassifyTask(recipe, args.data, teacher, args.soft_labels)
        check_classes(recipe, args.data, task.train)
    if not resumed:
        scale_first(network, recipe, task)
    # files that the recipe does not name: a foreign teacher is one only if the recipe has a teacher
    init = None if resumed else foreign(args.init, recipe.init)
    other = foreign(args.teacher, recipe.teacher) if recipe.teacher else None
    write_provenance(args.out, recipe, args.accumulate, resumed=resumed, init=init, teacher=other)
    return run(recipe, task, network, args.out, resume=args.resume, accumulate=args.accumulate)


def refuse_unused(args: argparse.Namespace, recipe: Recipe) -> None:
    """Check that the run learns from what it was given to learn from.

    Raises:
        ValueError: an option would have no effect.
    """
    distils = any(phase.distill > 0 for phase in recipe.phases)
    if args.teacher and (recipe.soft_labels or not distils):
        instead = "learns from --soft-labels" if distils else "learns from no teacher"
        raise ValueError(f"--teacher would have no effect: recipe {recipe.name} {instead}")
    if args.soft_labels and not recipe.soft_labels:
        raise ValueError(f"--soft-labels would have no effect: recipe {recipe.name} uses none")


def foreign(given: Path | None, recipe: str) -> Path | None:
    """The checkpoint that was given, if it is not one of ``recipe``."""
    return given if given is not None and checkpoint.load(given)["recipe"] != recipe else None


if __name__ == "__main__":
    sys.exit(main())
