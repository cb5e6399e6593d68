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
from models.train.classify import ClassifyTask
from models.train.depth import DepthTask
from models.train.depth_teacher import build_teacher, load_any
from models.train.device import best_device
from models.train.initialise import initialise_from
from models.train.loop import TrainingTask, run
from models.train.provenance import write_provenance
from models.train.recipes import DEPTH_TEACHER, RECIPES, get_recipe


def main() -> int:
    """Parse arguments, train, print the last held-out figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m models.train", description=__doc__)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ (images or drives)")
    parser.add_argument("--out", type=Path, required=True, help="folder for last.pt, best.pt and log.jsonl")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.pt")
    parser.add_argument("--init", type=Path, help="checkpoint to start from")
    parser.add_argument("--teacher", type=Path, help="checkpoint to distil from")
    parser.add_argument("--soft-labels", type=Path, help="folder of models.train.teacher to distil from")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    recipe = get_recipe(args.recipe)
    torch.set_num_threads(args.threads)
    torch.manual_seed(recipe.seed)
    made = build_teacher(recipe.arch) if recipe.name == DEPTH_TEACHER else build(recipe.arch)
    network = made.to(best_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        if args.init and not (args.resume and (args.out / "last.pt").is_file()):
            fresh = initialise_from(network, args.init)
            print(f"initialised from {args.init}; fresh: {', '.join(fresh) or 'nothing'}", file=sys.stderr)
        teacher = load_any(args.teacher).to(best_device()) if args.teacher else None
        task: TrainingTask
        task = (
            DepthTask(recipe, args.data, teacher)
            if recipe.arch.task == "depth"
            else ClassifyTask(recipe, args.data, teacher, args.soft_labels)
        )
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_provenance(args.out, recipe)
    progress = run(recipe, task, network, args.out, resume=args.resume)
    print(json.dumps(asdict(progress)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
