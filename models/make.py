"""``python -m models.make MODEL --data DIR --runs DIR --zoo DIR``: every step of a model, from data to card.

Prints and runs the individual commands in order: the teacher's labels, the recipes that the model's recipe starts from,
the BatchNorm statistics, the calibration, and the export with its evaluation. Finished steps are skipped and an
interrupted run is resumed, so repeating the same command continues where it stopped. The model is exported each time.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from models.command_line import Parser, count, expects
from models.data.views import labels_path
from models.train import checkpoint
from models.train.recipe import Recipe
from models.train.recipes import get_recipe


@dataclass(frozen=True)
class Product:
    """A model that can be made.

    Attributes:
        recipe: the recipe whose checkpoint is exported.
        export: additional arguments of ``models.export``.
    """

    recipe: str
    export: tuple[str, ...] = ()


PRODUCTS = {
    "resnet18-tiny100": Product("resnet18-tiny100-more"),
    "bireal18-tiny100": Product("bireal18-tiny100-more", ("--stem", "int8")),
    "resnet50-kitti-depth": Product("resnet50-half-kitti-depth-again"),
    "bireal50-kitti-depth": Product("bireal50-half-kitti-depth-scaled"),
    # not shipped: no better than 18 layers so far, and the full width without hints (docs/training.md)
    "resnet34-tiny100": Product("resnet34-tiny100-grown"),
    "bireal34-tiny100": Product("bireal34-tiny100-grown", ("--stem", "int8")),
    "resnet50-kitti-depth-taught": Product("resnet50-kitti-depth-taught"),
    "bireal50-kitti-depth-taught": Product("bireal50-kitti-depth-taught"),
}


@dataclass(frozen=True)
class Step:
    """A command, and whether its result already exists.

    Attributes:
        command: arguments after the interpreter.
        done: whether nothing is left to do.
        keep: file for its standard output; None prints it.
    """

    command: tuple[str, ...]
    done: bool
    keep: Path | None = None


def finished(out: Path, recipe: Recipe) -> bool:
    """Whether the run of ``recipe`` in ``out`` is complete; a lone ``best.pt``, copied from elsewhere, counts."""
    last = out / "last.pt"
    if last.is_file():
        return int(checkpoint.load(last)["progress"]["phase"]) >= len(recipe.phases)
    return (out / "best.pt").is_file()


def training(name: str, data: Path, images: Path, runs: Path, threads: int) -> list[Step]:
    """The runs that the recipe ``name`` depends on, then its own, each once, including finished ones.

    Args:
        name: name of the recipe.
        data: training data of the depth networks among the runs.
        images: training data of the classifiers among them.
        runs: folder with one folder per run.
        threads: CPU threads per run.
    """
    recipe = get_recipe(name)
    own = images if recipe.arch.task == "classify" else data
    here = finished(runs / name, recipe)
    done: dict[tuple[str, ...], bool] = {}
    if recipe.soft_labels:
        labels = runs / "teacher"
        label = ["-m", "models.train.teacher", "--data", str(own), "--out", str(labels)]
        label += ["--views", str(recipe.views), "--first-view", str(recipe.first_view)]
        label += ["--min-scale", f"{recipe.min_scale:g}", "--threads", str(threads)]
        views = range(recipe.first_view, recipe.first_view + recipe.views)
        written = all(labels_path(labels, recipe.min_scale, view).is_file() for view in views)
        done[tuple(label)] = written or here
    for needed in filter(None, (recipe.init, recipe.teacher)):
        for step in training(needed, data, images, runs, threads):
            # a finished run no longer needs its inputs, but another run may
            done[step.command] = done.get(step.command, True) and (step.done or here)
    command = ["-m", "models.train", name, "--data", str(own), "--out", str(runs / name), "--resume"]
    command += ["--threads", str(threads)]
    if recipe.init:
        command += ["--init", str(runs / recipe.init / "best.pt")]
    if recipe.teacher:
        command += ["--teacher", str(runs / recipe.teacher / "best.pt")]
    if recipe.soft_labels:
        command += ["--soft-labels", str(labels)]
    return [*(Step(line, ready) for line, ready in done.items()), Step(tuple(command), here)]


def temperature_of(kept: Path) -> str:
    """The temperature printed by ``models.eval.calibration``; ``T`` if it has not run yet."""
    return str(json.loads(kept.read_text())["temperature"]) if kept.is_file() else "T"


def plan(model: str, args: argparse.Namespace) -> list[Step]:
    """All steps of ``model``. Steps after training depend on files written by earlier ones: re-plan after each step."""
    product = PRODUCTS[model]
    recipe = get_recipe(product.recipe)
    out: Path = args.runs / recipe.name
    images = args.images or args.data
    steps = training(recipe.name, args.data, images, args.runs, args.threads)
    trained = steps[-1].done
    # the name is the product's, and the same command is there to be repeated
    export = ["-m", "models.export", "--name", model, "--out", str(args.zoo), "--overwrite", *product.export]
    if recipe.arch.task == "classify":
        whole, kept = out / "served.pt", out / "calibration.json"
        measure = ("-m", "models.train.statistics", str(out / "best.pt"), "--data", str(images), "--out", str(whole))
        fit = ("-m", "models.eval.calibration", str(whole), "--data", str(images))
        measured = trained and whole.is_file() and whole.stat().st_mtime >= (out / "best.pt").stat().st_mtime
        fitted = measured and kept.is_file() and kept.stat().st_mtime >= whole.stat().st_mtime
        steps += [Step(measure, measured), Step(fit, fitted, kept)]
        export += [str(whole), "--classes", str(images), "--temperature", temperature_of(kept) if fitted else "T"]
    else:
        export += [str(out / "best.pt")]
    if args.dev:
        export += ["--evaluate", str(args.dev), "--dataset", args.dataset]
    if args.notes:
        export += ["--notes", args.notes]
    return [*steps, Step(tuple(export), False)]


def unfinished_start(steps: list[Step]) -> str | None:
    """The first classifier that a depth network starts from and that is not trained yet; None without one."""
    runs = {step.command[2]: step.done for step in steps if step.command[1] == "models.train"}
    tasks = {name: get_recipe(name).arch.task for name in runs}
    if "depth" not in tasks.values():
        return None
    return next((name for name, done in runs.items() if tasks[name] == "classify" and not done), None)


@expects(OSError, ValueError)
def main() -> int:
    """Run the remaining steps or, with ``--plan``, only print them."""
    parser = Parser(prog="python -m models.make", description=__doc__.split("\n\n")[0])
    parser.add_argument("model", choices=sorted(PRODUCTS))
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ (images or drives)")
    parser.add_argument(
        "--images", type=Path, help="for a depth model: training data of the classifiers that it starts from"
    )
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs, one subfolder each")
    parser.add_argument("--zoo", type=Path, required=True, help="folder of models; writes or replaces ZOO/MODEL/1/")
    parser.add_argument("--dev", type=Path, help="labelled folder or drive to evaluate on for the card")
    parser.add_argument("--dataset", default="dev", help="name of that data in the card (default dev)")
    parser.add_argument("--notes", default="", help="free text for the card")
    parser.add_argument("--threads", type=count, default=1, help="CPU threads per training run (default 1)")
    parser.add_argument("--plan", action="store_true", help="print the commands without running them")
    args = parser.parse_args()
    if args.images is None and (name := unfinished_start(plan(args.model, args))):
        parser.error(f"{args.model} starts from {name}, a network of images: give its training data with --images DIR")
    for index in range(len(plan(args.model, args))):
        step = plan(args.model, args)[index]  # re-plan: earlier steps have written files
        print(f"[{'done' if step.done else 'run'}] python {shlex.join(step.command)}", file=sys.stderr, flush=True)
        if step.done or args.plan:
            continue
        code = run(step)
        if code != 0:
            return code
    return 0


def run(step: Step) -> int:
    """Run a step and return its exit code; the file for its output appears only when it is complete."""
    command = [sys.executable, *step.command]
    if step.keep is None:
        return subprocess.run(command, check=False).returncode  # noqa: S603  # our own modules
    part = step.keep.with_suffix(".part")
    with part.open("w") as kept:
        code = subprocess.run(command, stdout=kept, check=False).returncode  # noqa: S603  # our own modules
    if code == 0:
        part.replace(step.keep)
    else:
        part.unlink()
    return code


if __name__ == "__main__":
    sys.exit(main())
