"""`models.make`: the order of a model's steps, what is not made again, and the whole chain on little data."""

import json
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest

from models import make
from models.arch import build
from models.make import PRODUCTS, finished, plan, training
from models.train import checkpoint
from models.train.provenance import command
from models.train.recipes import RECIPES, get_recipe
from service.card import Card

ZOO = Path(__file__).resolve().parents[2] / "models" / "zoo"


def arguments(folder: Path) -> Namespace:
    folders = {name: folder / name for name in ("data", "runs", "zoo")}
    return Namespace(**folders, images=None, dev=None, dataset="dev", notes="", threads=1)


def module_and_target(command: tuple[str, ...]) -> tuple[str, str]:
    return command[1], command[2] if command[1] == "models.train" else ""


@pytest.mark.parametrize("model", sorted(PRODUCTS))
def test_every_checkpoint_is_made_before_it_is_needed(model: str, tmp_path: Path) -> None:
    made: set[str] = set()
    for step in plan(model, arguments(tmp_path)):
        assert not step.done
        for flag in ("--init", "--teacher"):
            if flag in step.command:
                needed = Path(step.command[step.command.index(flag) + 1])
                assert needed.parent.name in made
        if step.command[1] == "models.train":
            made.add(step.command[2])
    assert get_recipe(PRODUCTS[model].recipe).name in made


def test_taught_depth_starts_from_a_classifier_and_a_teacher_that_are_each_trained_once(tmp_path: Path) -> None:
    steps = training("bireal50-kitti-depth-taught", tmp_path / "kitti", tmp_path / "images", tmp_path, 1)
    assert [module_and_target(step.command) for step in steps] == [
        ("models.train.teacher", ""),
        ("models.train", "resnet50-tiny100"),
        ("models.train", "pretrained-kitti-depth"),
        ("models.train", "resnet50-kitti-depth-taught"),
        ("models.train", "bireal50-kitti-depth-taught"),
    ]
    data = [step.command[step.command.index("--data") + 1] for step in steps]
    assert [Path(folder).name for folder in data] == ["images", "images", "kitti", "kitti", "kitti"]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_run_of_a_chain_reads_the_data_of_its_task(name: str, tmp_path: Path) -> None:
    """Also a depth network that a classifier starts from, which another depth network starts from."""
    for step in training(name, tmp_path / "kitti", tmp_path / "images", tmp_path, 1):
        module, target = module_and_target(step.command)
        depth = module == "models.train" and get_recipe(target).arch.task == "depth"
        folder = Path(step.command[step.command.index("--data") + 1]).name
        assert folder == ("kitti" if depth else "images"), f"{module} {target}"


def test_a_depth_model_asks_for_the_images_of_the_classifier_that_it_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [word for name in ("data", "runs", "zoo") for word in (f"--{name}", str(tmp_path / name))]
    monkeypatch.setattr(sys, "argv", ["make", "resnet50-kitti-depth-taught", *folders, "--plan"])
    with pytest.raises(SystemExit):
        make.main()
    message = "resnet50-kitti-depth-taught starts from resnet50-tiny100, a network of images: give its training data"
    assert message in capsys.readouterr().err
    (tmp_path / "runs" / "resnet50-tiny100").mkdir(parents=True)
    (tmp_path / "runs" / "resnet50-tiny100" / "best.pt").touch()
    assert make.main() == 0, "a finished run needs no data"


def test_what_a_finished_run_was_made_of_is_not_made_again(tmp_path: Path) -> None:
    start = tmp_path / "resnet50-kitti-depth-taught"
    start.mkdir()
    (start / "best.pt").touch()
    steps = training("bireal50-kitti-depth-taught", tmp_path / "kitti", tmp_path / "images", tmp_path, 1)
    left = [module_and_target(step.command)[1] for step in steps if not step.done]
    assert left == ["pretrained-kitti-depth", "bireal50-kitti-depth-taught"], "the teacher is needed by the second, too"
    assert len(steps) == 5


@pytest.mark.parametrize("folder", sorted(ZOO.glob("*/*/card.yaml")), ids=lambda path: path.parent.parent.name)
def test_the_recipe_of_a_shipped_model_is_the_one_that_made_it(folder: Path, tmp_path: Path) -> None:
    card = Card.load(folder.parent)
    recipe = get_recipe(card.training.recipe)
    assert PRODUCTS[card.name].recipe == recipe.name
    assert card.training.command == command(recipe), "--init, --teacher, --soft-labels where the recipe needs them"
    assert card.training.epochs == sum(phase.epochs for phase in recipe.phases)
    assert card.training.seed == recipe.seed
    assert card.training.data == recipe.data
    assert (card.network.depth, card.network.method) == (recipe.arch.depth, recipe.arch.method)
    (made,) = (
        step for step in plan(card.name, arguments(tmp_path)) if step.command[1:3] == ("models.train", recipe.name)
    )
    flags = {word for word in made.command if word in ("--init", "--teacher", "--soft-labels")}
    assert flags == {word for word in card.training.command.split() if word in ("--init", "--teacher", "--soft-labels")}


def test_a_run_is_finished_when_its_last_phase_is(tmp_path: Path) -> None:
    recipe = replace(RECIPES["bireal18-tiny100"], arch=replace(RECIPES["bireal18-tiny100"].arch, width=0.25))
    network = build(recipe.arch)
    assert not finished(tmp_path, recipe)
    for phase, expected in ((len(recipe.phases) - 1, False), (len(recipe.phases), True)):
        checkpoint.save(tmp_path / "last.pt", network, recipe.arch, recipe.name, checkpoint.Progress(phase=phase))
        checkpoint.save(tmp_path / "best.pt", network, recipe.arch, recipe.name, checkpoint.Progress())
        assert finished(tmp_path, recipe) is expected
    (tmp_path / "last.pt").unlink()
    assert finished(tmp_path, recipe), "a checkpoint that was brought from elsewhere"


def test_the_temperature_is_read_from_a_calibration_newer_than_the_checkpoint(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    recipe = get_recipe(PRODUCTS["resnet18-tiny100"].recipe)
    out = args.runs / recipe.name
    out.mkdir(parents=True)
    for name in ("best.pt", "served.pt"):
        (out / name).touch()
    assert plan("resnet18-tiny100", args)[-1].command[-1] == "T"
    (out / "calibration.json").write_text(json.dumps({"temperature": 1.25}))
    assert plan("resnet18-tiny100", args)[-1].command[-1] == "1.25"


@pytest.mark.parametrize("stopped", [True, False])
def test_a_calibration_that_was_interrupted_is_made_again(
    stopped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ctrl-C, or by an error: in neither case may a part of the output pass for a newer, finished file."""
    args = arguments(tmp_path)
    out = args.runs / get_recipe(PRODUCTS["resnet18-tiny100"].recipe).name
    out.mkdir(parents=True)
    for name in ("best.pt", "served.pt"):
        (out / name).touch()
    ended: list[int] = []

    def run(command: list[str], stdout: TextIO | None = None, **_: object) -> subprocess.CompletedProcess[str]:
        assert command[2] == "models.eval.calibration" or ended == [0]
        if stdout is not None:
            stdout.write('{"temperature"' if not ended else '{"temperature": 1.25}')
        if not ended and stopped:
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(command, 0 if ended else 1)

    monkeypatch.setattr(make.subprocess, "run", run)
    folders = [word for name in ("data", "runs", "zoo") for word in (f"--{name}", str(tmp_path / name))]
    monkeypatch.setattr(sys, "argv", ["make", "resnet18-tiny100", *folders])
    if stopped:
        with pytest.raises(KeyboardInterrupt):
            make.main()
    else:
        assert make.main() == 1
    assert not (out / "calibration.json").exists()
    assert not plan("resnet18-tiny100", args)[-2].done
    ended.append(0)
    assert make.main() == 0
    assert plan("resnet18-tiny100", args)[-1].command[-1] == "1.25"


def test_plan_says_the_commands_and_runs_none(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "models.make", "bireal18-tiny100", "--plan"]
    command += ["--data", str(tmp_path), "--runs", str(tmp_path / "runs"), "--zoo", str(tmp_path / "zoo")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert [line.split()[3] for line in lines][-3:] == [
        "models.train.statistics",
        "models.eval.calibration",
        "models.export",
    ]
    assert all(line.startswith("[run] python -m models.") for line in lines)
    assert " --overwrite " in lines[-1], "a line that is repeated replaces the model of its own name"
    assert list(tmp_path.iterdir()) == []
