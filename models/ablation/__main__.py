"""``python -m models.ablation --data DIR --out DIR``: run or resume the grid; ``--report`` only writes the page.

Several processes started with the same folders share the cells. One process per core is fastest.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Container
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from models.ablation.folders import claim
from models.ablation.grid import CLASSES, Budget, Cell, cells
from models.ablation.report import page
from models.ablation.results import Results, locked
from models.ablation.task import LabelledImages, SmallImages, load_folder
from models.arch import build
from models.binarize.base import BinaryConv2d, set_phase
from models.command_line import Parser, count, expects, positive
from models.train import checkpoint
from models.train.device import best_device
from models.train.initialise import initialise_from
from models.train.loop import DivergedError, run
from models.train.streams import scale_first

RESULTS = Path("docs/ablation.json")
PAGE = Path("docs/ablation.md")
DONE = "done"  # marker file in a cell's folder
POLL_S = 2.0  # between checks for a free cell while other processes train all that are left


def train_cell(cell: Cell, budget: Budget, train: LabelledImages, test: LabelledImages, runs: Path) -> dict[str, Any]:
    """Train one cell (resuming it if it was interrupted) and return its record.

    Raises:
        FileNotFoundError: the cell it starts from has no checkpoint.
        ValueError: its folder holds a run with another budget.
        DivergedError: the run diverged.
    """
    recipe = cell.recipe(budget)
    teacher = None
    if cell.teacher is not None:
        teacher = checkpoint.load_network(runs / cell.teacher.key / "last.pt").to(best_device())
        set_phase(teacher, cell.teacher.phase)
    task = SmallImages(train, test, recipe, teacher)
    claim(runs / cell.key, recipe, budget, len(test[1]), task.steps_per_epoch())
    torch.manual_seed(cell.seed)
    network = build(recipe.arch)
    network = network.to(best_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
    out = runs / cell.key
    fresh: list[str] = []
    if cell.start is not None:  # also where a checkpoint takes the place of these weights: the record counts them
        fresh = initialise_from(network, runs / cell.start.key / "last.pt")
    scale_first(network, recipe, task)  # a checkpoint replaces the scaled weights, too
    progress = run(recipe, task, network, out, resume=True, quiet=True)
    return {
        "top1": round(progress.metrics["top1"], 4),
        "top5": round(progress.metrics["top5"], 4),
        "cpu_s": round(progress.cpu_s, 1),
        "start": cell.start.key if cell.start else "",
        "fresh": len(fresh),
    }


def twins_record(cell: Cell, results: Results, runs: Path) -> dict[str, Any] | None:
    """The record of the cell's twin, if training the cell would repeat it to the last bit; else None.

    That is so if no weight of the twin has left [-1, 1], where BinaryNet would have clipped it. A weight that leaves
    gets no gradient (Eq. 8), and momentum carries it further, so the last weights tell.
    """
    record = results.content["cells"].get(cell.twin.key) if cell.twin else None
    if cell.twin is None or record is None or not (runs / cell.twin.key / DONE).is_file():
        return None
    network = checkpoint.load_network(runs / cell.twin.key / "last.pt")
    layers = [module for module in network.modules() if isinstance(module, BinaryConv2d)]
    if max(float(layer.weight.detach().abs().max()) for layer in layers) > 1.0:
        return None
    # an old record has no commit of its own, and copying it now does not give it one
    return {"commit": "", **record, "cpu_s": 0.0, "same_as": cell.twin.key}


def needed(only: str) -> list[Cell]:
    """Cells whose key contains ``only``, the cells they start from and their twins, in the grid's order."""
    keys = {cell.key for cell in cells() if only in cell.key}
    while more := {c.key for cell in cells() if cell.key in keys for c in before(cell)} - keys:
        keys |= more
    return [cell for cell in cells() if cell.key in keys]


def before(cell: Cell) -> list[Cell]:
    """The cells that come before ``cell``: those whose weights it needs, and the one whose record it may take."""
    return [*cell.needs, *([cell.twin] if cell.twin else [])]


def left(wanted: list[Cell], results: Results, out: Path) -> list[Cell]:
    """Cells without a result, and cells whose weights one of those needs but which are no longer in ``out``.

    Completion is read from the marker in a cell's folder, because checkpoints exist before training has ended.
    """
    missing = {cell.key for cell in wanted if cell not in results}
    for cell in reversed(wanted):  # each cell comes after those it needs
        if cell.key in missing:
            missing |= {needed.key for needed in cell.needs if not (out / needed.key / DONE).is_file()}
    return [cell for cell in wanted if cell.key in missing]


def descends_from(cell: Cell | None, keys: Container[str]) -> bool:
    """Whether ``cell``, or a cell that comes before it, is among ``keys``."""
    return cell is not None and (cell.key in keys or any(descends_from(other, keys) for other in before(cell)))


@expects(OSError, ValueError)
def main() -> int:
    """Train the missing cells, then write the page."""
    parser = Parser(prog="python -m models.ablation", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with train/<class>/ and test/<class>/ of 32x32 images")
    parser.add_argument("--out", type=Path, help="folder for the cells' checkpoints and logs")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"results file (default {RESULTS})")
    parser.add_argument("--page", type=Path, default=PAGE, help=f"page to write (default {PAGE})")
    parser.add_argument("--report", action="store_true", help="train nothing, only write the page from the results")
    parser.add_argument(
        "--only", default="", help="train only cells whose name contains this, and the cells they start from"
    )
    parser.add_argument("--test-images", type=count, default=4000, help="test images per evaluation (default 4000)")
    parser.add_argument(
        "--threads", type=count, default=len(os.sched_getaffinity(0)), help="CPU threads (default: all cores)"
    )
    for item in fields(Budget):
        option = "--" + item.name.replace("_", "-")
        number = count if isinstance(item.default, int) else positive
        said = f"budget, the same for all cells (default {item.default})"
        parser.add_argument(option, type=number, default=item.default, help=said)
    args = parser.parse_args()
    if not args.report and (args.data is None or args.out is None):
        parser.error("training needs --data and --out")
    if not args.report:
        train_grid(args)
    if not args.results.is_file():
        raise FileNotFoundError(f"no results at {args.results}: train cells with --data and --out, or give --results")
    args.page.write_text(page(json.loads(args.results.read_text()), args.results.name))
    return 0


def load_data(data: Path, budget: Budget, test_images: int) -> tuple[LabelledImages, LabelledImages]:
    """Load training and test images, the same number of each class.

    Raises:
        FileNotFoundError, ValueError: the folders do not hold `CLASSES` classes, or too few images are requested.
    """
    smallest = max(CLASSES, budget.batch)
    if budget.images < smallest or test_images < CLASSES:
        raise ValueError(
            f"--images {budget.images} --test-images {test_images}: --images must be at least {smallest} (one batch, "
            f"and one image per class), --test-images at least {CLASSES}"
        )
    train = load_folder(data / "train", budget.images // CLASSES)
    test = load_folder(data / "test", test_images // CLASSES)
    for split, (_, labels) in (("train", train), ("test", test)):
        if (found := int(labels[-1]) + 1) != CLASSES:
            raise ValueError(
                f"{data / split} has {found} class folders, but the grid's networks have {CLASSES} outputs"
            )
    if len(train[1]) < budget.batch:
        raise ValueError(f"{data / 'train'} has {len(train[1])} images, fewer than --batch {budget.batch}")
    return train, test


def train_grid(args: argparse.Namespace) -> None:
    """Train the missing cells, sharing them with other processes started with the same arguments.

    Raises:
        FileNotFoundError, ValueError: an argument or the data is invalid, or a folder holds runs of another budget.
        DivergedError: a cell diverged; raised after the cells that do not depend on it have been trained.
    """
    budget = Budget(**{item.name: getattr(args, item.name) for item in fields(Budget)})
    torch.set_num_threads(args.threads)
    wanted = needed(args.only)
    if not wanted:
        raise ValueError(f"--only {args.only}: no cell name contains this; an example is {cells()[-1].key}")
    train, test = load_data(args.data, budget, args.test_images)
    results = Results(args.results, budget, len(test[1]))
    diverged: dict[str, str] = {}
    while missing := [cell for cell in left(wanted, results, args.out) if not descends_from(cell, diverged)]:
        for cell in missing:
            if any(other in missing for other in before(cell)):
                continue  # another process is training a cell that comes before it
            with locked(args.out / cell.key / "lock", wait=False) as got:
                if not got or cell not in left(wanted, results, args.out):
                    continue
                try:
                    record = twins_record(cell, results, args.out)
                    record = record or train_cell(cell, budget, train, test, args.out)
                except DivergedError as error:
                    diverged[cell.key] = str(error)
                    break
                results.add(cell, record)
                (args.out / cell.key / DONE).touch()
                print(f"{cell.key}: top-1 {record['top1']:.4f}, {record['cpu_s']:.0f} s", flush=True)
                break  # start over: other processes may have finished cells meanwhile
        else:
            time.sleep(POLL_S)
    if diverged:
        raise DivergedError("; ".join(diverged.values()))


if __name__ == "__main__":
    sys.exit(main())
