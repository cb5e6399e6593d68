"""``python -m models.ablation --data DIR --out DIR``: run or resume the grid; ``--report`` writes the page alone.

Started several times with the same folders, the processes share the cells: one a core is the fastest.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from models.ablation.grid import Budget, Cell, cells
from models.ablation.report import page
from models.ablation.results import Results, locked
from models.ablation.task import SmallImages, load_folder
from models.arch import build
from models.command_line import Parser
from models.train.device import best_device
from models.train.initialise import initialise_from
from models.train.loop import run

RESULTS = Path("docs/ablation.json")
PAGE = Path("docs/ablation.md")
POLL_S = 2.0  # between looks for a cell, where others train all that are left


def train_cell(cell: Cell, budget: Budget, train: Any, test: Any, runs: Path) -> dict[str, Any]:
    """Train one cell (resuming it, if it was interrupted) and return its record."""
    recipe = cell.recipe(budget)
    torch.manual_seed(cell.seed)
    network = build(recipe.arch)
    network = network.to(best_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
    out = runs / cell.key
    fresh: list[str] = []
    if cell.start is not None and not (out / "last.pt").is_file():
        fresh = initialise_from(network, runs / cell.start.key / "last.pt")
    clock = time.process_time()
    progress = run(recipe, SmallImages(train, test, recipe), network, out, resume=True, quiet=True)
    return {
        "top1": round(progress.metrics["top1"], 4),
        "top5": round(progress.metrics["top5"], 4),
        "cpu_s": round(time.process_time() - clock, 1),
        "start": cell.start.key if cell.start else "",
        "fresh": len(fresh),
    }


def needed(only: str) -> list[Cell]:
    """Cells whose key has ``only`` in it, and those that they start from, in the grid's order."""
    keys = {cell.key for cell in cells() if only in cell.key}
    while more := {c.start.key for c in cells() if c.key in keys and c.start} - keys:
        keys |= more
    return [cell for cell in cells() if cell.key in keys]


def main() -> int:
    """Run what is missing, then write the page."""
    parser = Parser(prog="python -m models.ablation", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with train/<class>/ and test/<class>/ of 32x32 images")
    parser.add_argument("--out", type=Path, help="folder for the cells' checkpoints and logs")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"results file (default {RESULTS})")
    parser.add_argument("--page", type=Path, default=PAGE, help=f"page to write (default {PAGE})")
    parser.add_argument("--report", action="store_true", help="train nothing, write the page from the results")
    parser.add_argument(
        "--only", default="", help="train only cells whose name has this in it, and what they start from"
    )
    parser.add_argument("--test-images", type=int, default=4000, help="test images a cell is judged by")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    for item in fields(Budget):
        option = "--" + item.name.replace("_", "-")
        parser.add_argument(
            option, type=type(item.default), default=item.default, help="budget, the same for all cells"
        )
    args = parser.parse_args()
    if args.report:
        args.page.write_text(page(json.loads(args.results.read_text())))
        return 0
    if args.data is None or args.out is None:
        parser.error("--data and --out are needed to train")
    budget = Budget(**{item.name: getattr(args, item.name) for item in fields(Budget)})
    torch.set_num_threads(args.threads)
    try:
        train = load_folder(args.data / "train", budget.images // 10)
        test = load_folder(args.data / "test", args.test_images // 10)
        results = Results(args.results, budget, len(test[1]))
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    wanted = needed(args.only)
    while missing := [cell for cell in wanted if cell not in results]:
        for cell in missing:
            if cell.start is not None and cell.start not in results:
                continue  # another process trains what it starts from
            with locked(args.out / cell.key / "lock", wait=False) as got:
                if not got or cell in results:
                    continue
                record = train_cell(cell, budget, train, test, args.out)
                results.add(cell, record)
                print(f"{cell.key}: top-1 {record['top1']:.4f}, {record['cpu_s']:.0f} s", flush=True)
                break  # look again from the first: others have gone on meanwhile
        else:
            time.sleep(POLL_S)
    args.page.write_text(page(results.content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
