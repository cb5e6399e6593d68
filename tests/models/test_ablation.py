"""The grid of the paper's ablation: its cells, and that it trains what is missing and resumes."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from models.ablation import __main__ as command
from models.ablation.grid import (
    COMBINATIONS,
    Budget,
    Cell,
    binary,
    cells,
    combination,
    extras,
    other,
    real,
    scaled,
    third_order,
)
from models.ablation.paper import printed
from models.ablation.report import page
from models.ablation.results import Results, commit, locked
from models.ablation.task import SmallImages, load_folder
from models.arch.config import STRUCTURES
from models.binarize.base import Phase
from models.train import checkpoint
from models.train.loop import DivergedError
from models.train.recipe import Recipe


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes of plain colours with noise, 24 to train and 8 to test each."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (10, 3))
    for split, count in (("train", 24), ("test", 8)):
        for label in range(10):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                noisy = colours[label] + rng.normal(0, 20, (32, 32, 3))
                Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{i:02d}.png")
    return root


def test_the_commit_is_the_projects_wherever_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = commit()
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)
    assert commit() == here, "not that of the repository in the current folder"


def test_the_grid_has_every_cell_of_tables_1_to_4() -> None:
    found = cells()
    keys = [cell.key for cell in found]
    assert len(set(keys)) == len(keys)
    for depth in (18, 34):
        for structure in STRUCTURES:
            wanted = [combination(depth, structure, *row) for row in COMBINATIONS]
            wanted += [real(depth, structure, Phase.RELU), real(depth, structure, Phase.CLIP)]
            assert {c.key for c in wanted} <= set(keys)
    assert {c.key for c in (third_order(), binary(50), other(50, "binarynet"), other(18, "xnornet"))} <= set(keys)
    assert {c.key for seed in (1, 2) for c in extras(seed)} <= set(keys)
    seeds = {cell.seed for cell in found if (cell.depth, cell.structure, cell.method) == (18, "bireal", "bireal")}
    assert seeds == {1, 2}
    assert printed().keys() <= set(keys), "a printed figure has a cell of ours beside it"


def test_each_cell_comes_after_the_one_it_starts_from_and_has_the_same_budget() -> None:
    seen: set[str] = set()
    budget = Budget(binary_epochs=4)
    for cell in cells():
        assert cell.start is None or cell.start.key in seen
        seen.add(cell.key)
        recipe = cell.recipe(budget)
        if cell.init:
            assert sum(phase.epochs for phase in recipe.phases) == 4
            assert recipe.phases[-1].phase is Phase.BINARY
        assert recipe.arch.width == budget.width
        assert all(phase.optimizer == "sgd" for phase in recipe.phases)
    clip = real(18, "bireal", Phase.CLIP).recipe(budget)
    assert [phase.phase for phase in clip.phases] == [Phase.LEAKY_CLIP, Phase.CLIP]
    deep = binary(50).recipe(budget)
    assert [phase.phase for phase in deep.phases] == [Phase.BINARY_1X1, Phase.BINARY]


def test_batches_are_crops_of_the_images(images: Path) -> None:
    train = load_folder(images / "train", 24)
    recipe = third_order().recipe(Budget(batch=16))
    task = SmallImages(train, train, recipe)
    first = next(task.batches(recipe.phases[0], 0, 3))
    again = list(task.batches(recipe.phases[0], 0, 0))[3]
    assert (first[0] == again[0]).all()
    for image, label in zip(first[0].numpy(), first[1].tolist(), strict=True):
        own = train[0][train[1] == label].mean(axis=(0, 1, 2))
        assert image.mean(axis=(1, 2)) == pytest.approx(own, abs=6.0)
    with pytest.raises(FileNotFoundError, match="has no class folders"):
        load_folder(images / "none")


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_network_that_tells_nothing_apart_is_never_right(images: Path, value: float) -> None:
    class Constant(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full((len(x), 10), value)

    data = load_folder(images / "test", 2)
    task = SmallImages(data, data, third_order().recipe(Budget()))
    assert task.evaluate(Constant(1, 1)) == {"top1": 0.0, "top5": 0.0}


def run(monkeypatch: pytest.MonkeyPatch, images: Path, out: Path, *more: str) -> int:
    options = ["--data", str(images), "--out", str(out / "runs"), "--results", str(out / "r.json")]
    options += ["--page", str(out / "p.md"), "--threads", "1", "--test-images", "80", "--images", "240"]
    options += ["--width", "0.125", "--size", "32", "--relu-epochs", "1", "--binary-epochs", "1"]
    options += ["--batch", "16", *more]
    monkeypatch.setattr(sys, "argv", ["models.ablation", *options])
    return command.main()


def test_the_command_trains_what_is_missing_and_nothing_else(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only = combination(18, "res", "relu", "magnitude", "approxsign").key
    assert run(monkeypatch, images, tmp_path, "--only", only) == 0
    printed_lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed_lines] == ["res18-real-relu-seed1", only]
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["cells"][only]["start"] == "res18-real-relu-seed1"
    assert results["cells"][only]["fresh"] == 0, "a cell starts with every weight of its real-valued network"
    assert 0.0 <= results["cells"][only]["top1"] <= results["cells"][only]["top5"] <= 1.0
    before = (tmp_path / "r.json").read_bytes()
    assert run(monkeypatch, images, tmp_path, "--only", only) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "r.json").read_bytes() == before
    assert f"{results['cells'][only]['top1']:.1%} / 32.2 %" not in page(results), "42 is another row"
    assert f"{results['cells'][only]['top1']:.1%} / 41.6 %" in (tmp_path / "p.md").read_text()
    assert run(monkeypatch, images, tmp_path, "--lr", "0.01") == 2
    assert "results of another budget" in capsys.readouterr().err


def test_a_run_of_another_budget_is_not_taken_for_this_ones(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "plain18-real-relu-seed1"
    folder = tmp_path / "runs" / key
    assert run(monkeypatch, images, tmp_path, "--only", key) == 0
    for with_note in (True, False):  # the first grids left none: the checkpoint and the log say enough
        if not with_note:
            (folder / "budget.json").unlink()
        (tmp_path / "r.json").unlink()
        before = (folder / "last.pt").read_bytes()
        others = {"--relu-epochs": "2", "--images": "160", "--width": "0.25"} | ({"--lr": "0.01"} if with_note else {})
        for option, value in others.items():
            capsys.readouterr()
            assert run(monkeypatch, images, tmp_path, "--only", key, option, value) == 2
            said = capsys.readouterr().err
            assert f"{folder} has a run of another budget" in said
            assert "another --out" in said
            assert not (tmp_path / "r.json").exists()
        assert run(monkeypatch, images, tmp_path, "--only", key) == 0, "the same budget is gone on with"
        assert (folder / "last.pt").read_bytes() == before
    assert json.loads((folder / "budget.json").read_text())["relu_epochs"] == 1


def test_mistakes_on_the_command_line_are_said(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*options: str) -> str:
        assert run(monkeypatch, images, tmp_path, *options) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        return line

    assert "--only zzz: no cell name contains this" in said("--only", "zzz")
    assert "--images 5 --test-images 80: --images must be at least 16" in said("--images", "5")
    assert "at least 16 (one batch, and one image per class), --test-images at least 10" in said("--test-images", "9")
    assert f"no results at {tmp_path / 'r.json'}" in said("--report")
    few = tmp_path / "few"
    shutil.copytree(images, few)
    shutil.rmtree(few / "test" / "class3")
    assert f"{few / 'test'} has 9 class folders, but the grid's networks have 10 outputs" in said("--data", str(few))
    for path in (few / "train" / "class4").iterdir():
        path.unlink()
    assert f"{few / 'train' / 'class4'} has no images" in said("--data", str(few))
    Image.new("RGB", (40, 32)).save(few / "train" / "class4" / "a.png")
    assert "is 40x32: images must be 32x32" in said("--data", str(few))


def test_binarynet_is_trained_once(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is Table 1's Res without our techniques: their weights are the same to the last bit."""
    cell = other(18, "binarynet")
    assert cell.twin is not None
    assert run(monkeypatch, images, tmp_path, "--only", cell.key) == 0
    trained = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert trained == ["res18-real-relu-seed1", cell.twin.key, cell.key]
    found = json.loads((tmp_path / "r.json").read_text())["cells"]
    assert not (tmp_path / "runs" / cell.key / "last.pt").exists(), "copied"
    assert found[cell.key] == found[cell.twin.key] | {"cpu_s": 0.0, "same_as": cell.twin.key}
    (tmp_path / "runs" / cell.twin.key / command.DONE).unlink()  # its weights cannot be looked at
    del found[cell.key]
    text = json.dumps(json.loads((tmp_path / "r.json").read_text()) | {"cells": found})
    (tmp_path / "r.json").write_text(text)
    assert run(monkeypatch, images, tmp_path, "--only", cell.key) == 0
    again = json.loads((tmp_path / "r.json").read_text())["cells"]
    assert "same_as" not in again[cell.key]
    ends = [checkpoint.load(tmp_path / "runs" / key / "last.pt")["network"] for key in (cell.key, cell.twin.key)]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[1])
    assert [again[cell.key][name] for name in ("top1", "top5")] == [found[cell.twin.key][n] for n in ("top1", "top5")]
    payload = checkpoint.load(tmp_path / "runs" / cell.twin.key / "last.pt")
    name = next(key for key in payload["network"] if key.startswith("stages.") and key.endswith("conv.weight"))
    payload["network"][name][0, 0, 0, 0] = 1.5
    torch.save(payload, tmp_path / "runs" / cell.twin.key / "last.pt")
    (tmp_path / "runs" / cell.twin.key / command.DONE).touch()
    results = Results(tmp_path / "r.json", Budget(**json.loads(text)["budget"]), 80)
    assert command.twins_record(cell, results, tmp_path / "runs") is None, "BinaryNet would have clipped that weight"
    assert command.descends_from(cell, {cell.twin.key})


def test_an_interrupted_cell_records_all_of_its_training(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is of the network, not of the process that happened to end its training."""
    cell = other(18, "xnornet")
    whole = command.run

    def interrupted(*args: object, **options: object) -> object:
        if args[0].name == cell.key:  # type: ignore[attr-defined]  # a recipe
            whole(*args, max_steps=8, **options)  # type: ignore[arg-type]
            raise KeyboardInterrupt
        return whole(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, images, tmp_path, "--only", cell.key)
    so_far = checkpoint.load(tmp_path / "runs" / cell.key / "last.pt")
    assert so_far["progress"]["cpu_s"] > 0
    so_far["progress"]["cpu_s"] = 1000.0
    torch.save(so_far, tmp_path / "runs" / cell.key / "last.pt")
    monkeypatch.setattr(command, "run", whole)
    assert run(monkeypatch, images, tmp_path, "--only", cell.key) == 0
    record = json.loads((tmp_path / "r.json").read_text())["cells"][cell.key]
    assert record["fresh"] == 80, "as many as for a cell that was not interrupted"
    assert record["cpu_s"] > 1000.0


def test_the_grid_goes_on_where_its_checkpoints_are_gone(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results are kept for longer than checkpoints: what the next one starts from is trained again, nothing else."""
    first, second = (combination(18, "res", "relu", "magnitude", each).key for each in ("clip", "approxsign"))
    assert run(monkeypatch, images, tmp_path, "--only", first) == 0
    before = json.loads((tmp_path / "r.json").read_text())["cells"]
    shutil.rmtree(tmp_path / "runs")
    capsys.readouterr()
    assert run(monkeypatch, images, tmp_path, "--only", second) == 0
    printed_lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed_lines] == ["res18-real-relu-seed1", second]
    after = json.loads((tmp_path / "r.json").read_text())["cells"]
    assert after.keys() == before.keys() | {second}
    for key, record in before.items():
        assert after[key]["top1"] == record["top1"]


def test_a_distilled_cell_learns_from_the_relu_network(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    smoothed, distilled, _ = extras()
    assert (smoothed.teacher, distilled.teacher) == (None, real(18, "bireal", Phase.RELU))
    assert distilled.recipe(Budget()).phases[0].distill == 0.5
    assert (smoothed.recipe(Budget()).label_smoothing, distilled.recipe(Budget()).label_smoothing) == (0.1, 0.0)
    assert run(monkeypatch, images, tmp_path, "--only", distilled.key) == 0
    trained = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert trained == ["bireal18-real-relu-seed1", "bireal18-real-clip-seed1", distilled.key]
    # half of the loss is the cross-entropy with the teacher's answers
    recipe = replace(distilled.recipe(Budget()), batch=4)
    labelled = (np.zeros((4, 32, 32, 3), np.uint8), np.zeros(4, np.int64))
    sure = torch.tensor([[9.0, *[0.0] * 9]]).expand(4, 10)  # the teacher says class 0, the network class 1
    wrong = sure.roll(1, dims=1)
    task = SmallImages(labelled, labelled, recipe, Answers(sure))
    batch = (torch.zeros(4, 3, 64, 64), torch.ones(4, dtype=torch.int64))
    loss, _ = task.loss(Answers(wrong), batch, recipe.phases[0])
    agreeing, other_half = (F.cross_entropy(wrong, target) for target in (batch[1], sure.softmax(dim=1)))
    assert loss.item() == pytest.approx((agreeing + other_half).item() / 2)


def test_a_cell_with_scaled_streams_begins_scaled(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, cell = scaled(18, "relu")
    assert (plain.recipe(Budget()).stream_rms, cell.recipe(Budget()).stream_rms) == (0.0, 0.9)
    starts: list[dict[str, torch.Tensor]] = []

    def noted(recipe: Recipe, task: SmallImages, network: nn.Module, *arguments: Any, **options: Any) -> Any:
        starts.append({name: value.clone() for name, value in network.state_dict().items()})
        return train(recipe, task, network, *arguments, **options)

    train = command.run
    monkeypatch.setattr(command, "run", noted)
    for each in (plain, cell):
        assert run(monkeypatch, images, tmp_path, "--only", each.key) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(cell.key)
    _, unscaled, changed = starts
    gamma = "stages.3.0.body.bn.weight"
    factors = changed[gamma] / unscaled[gamma]
    assert factors.std() < 1e-5 and abs(factors.mean().item() - 1.0) > 0.01, "one constant for the whole stage"


class Answers(nn.Module):
    """Answers the same logits to every batch."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits


def test_half_trained_weights_are_no_start(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a start that is trained again and interrupted there is a checkpoint, and a result from before."""
    first, second = (combination(18, "res", "relu", "magnitude", each).key for each in ("clip", "approxsign"))
    assert run(monkeypatch, images, tmp_path, "--only", first) == 0
    (tmp_path / "runs" / "res18-real-relu-seed1" / "done").unlink()
    capsys.readouterr()
    assert run(monkeypatch, images, tmp_path, "--only", second) == 0
    printed_lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed_lines] == ["res18-real-relu-seed1", second]


def test_a_cell_that_diverges_does_not_keep_the_others_from_being_trained(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, relu = "plain18-real-clip-seed1", "plain18-real-relu-seed1"
    train_cell = command.train_cell

    def diverging(cell: Cell, *rest: object) -> object:
        if cell.key == clip:
            raise DivergedError("the loss is nan")
        return train_cell(cell, *rest)

    monkeypatch.setattr(command, "train_cell", diverging)
    assert run(monkeypatch, images, tmp_path, "--only", "plain18-real") == 2
    said = capsys.readouterr()
    assert [line.split(":")[0] for line in said.out.splitlines()] == [relu]
    assert said.err == "error: the loss is nan\n"
    after_it = combination(18, "plain", "clip", "magnitude", "approxsign")
    assert command.descends_from(after_it, {clip})
    assert not command.descends_from(after_it, {"res18-real-clip-seed1"})


def test_processes_share_the_grid(tmp_path: Path) -> None:
    first, second = cells()[:2]
    ours, theirs = (Results(tmp_path / "r.json", Budget(), 80) for _ in range(2))
    ours.add(first, {"top1": 0.25})
    theirs.add(second, {"top1": 0.5})
    assert first in theirs
    assert second in ours
    assert all("commit" in record for record in ours.content["cells"].values())
    assert {key: record["top1"] for key, record in ours.content["cells"].items()} == {first.key: 0.25, second.key: 0.5}
    with locked(tmp_path / "cell" / "lock", wait=False) as got, locked(tmp_path / "cell" / "lock", wait=False) as again:
        assert got
        assert not again, "a cell that is being trained is left alone"
    with locked(tmp_path / "cell" / "lock", wait=False) as got:
        assert got
    with pytest.raises(ValueError, match="results of another test images, 80"):
        Results(tmp_path / "r.json", Budget(), 90)
