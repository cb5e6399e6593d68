"""The pretrained depth teacher, and what its students take from it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from models.data.normalise import MEAN, STD
from models.export import __main__ as export
from models.train import checkpoint, depth_teacher
from models.train.depth import DepthTask
from models.train.depth_teacher import build_teacher, load_any
from models.train.pretrained import taps
from models.train.recipes import DEPTH_TEACHER, RECIPES
from tests.models.test_depth_training import drive  # noqa: F401  a fixture


class Doubles(nn.Module):
    """A teacher that answers a plane, nearer on the left side of the picture: mirrored asking cancels that."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tilt = torch.linspace(2.0, 0.5, x.shape[3]).expand(len(x), x.shape[2], x.shape[3])
        return 6.0 * tilt


def test_a_teacher_is_asked_about_the_mirrored_crop_too(drive: Path) -> None:  # noqa: F811
    recipe = RECIPES["resnet50-kitti-depth-taught"]
    phase = replace(recipe.phases[0], distill=1.0)
    task = DepthTask(replace(recipe, bf16=False, batch=2), drive.parent.parent, Doubles())
    batch = next(task.batches(phase, 0, 0))
    tilt = torch.linspace(2.0, 0.5, batch[0].shape[3])
    even = 6.0 * (tilt * tilt.flip(0)).sqrt()

    class Says(nn.Module):
        def __init__(self, answer: torch.Tensor) -> None:
            super().__init__()
            self.answer = answer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.answer.expand(len(x), x.shape[2], x.shape[3])

    loss, figures = task.loss(Says(even), batch, phase)
    assert figures["teacher"] < 1e-6
    assert loss < 1e-6
    task.recipe = replace(task.recipe, depth=replace(recipe.depth, teacher_mirrored=False))
    assert task.loss(Says(6.0 * tilt), batch, phase)[1]["teacher"] < 1e-6, "asked once, as for the shipped networks"
    assert task.loss(Says(even), batch, phase)[1]["teacher"] > 0.1


def test_distilling_without_a_teacher_is_refused(drive: Path) -> None:  # noqa: F811
    with pytest.raises(ValueError, match="--teacher"):
        DepthTask(RECIPES["resnet50-kitti-depth-taught"], drive.parent.parent)


def test_the_teacher_maps_any_multiple_of_32_and_is_read_back(tmp_path: Path) -> None:
    recipe = RECIPES[DEPTH_TEACHER]
    network = build_teacher(recipe.arch)
    assert len(taps(network.backbone)) == 4
    pixels = torch.full((1, 3, 64, 96), 127.0)
    x = (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    network.eval()
    with torch.no_grad():
        answer = network(x)
    assert answer.shape == (1, 64, 96)
    assert (answer > 0.5).all()
    assert (answer < 90.0).all()
    checkpoint.save(tmp_path / "t.pt", network, recipe.arch, recipe.name, checkpoint.Progress())
    with torch.no_grad():
        assert torch.allclose(load_any(tmp_path / "t.pt")(x), answer, rtol=1e-3)
    with pytest.raises(ValueError, match=r"t\.pt is the depth teacher \(pretrained-kitti-depth\), which is for distil"):
        checkpoint.load_network(tmp_path / "t.pt")


def test_a_teacher_with_other_weights_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPES[DEPTH_TEACHER]
    checkpoint.save(tmp_path / "t.pt", nn.Linear(3, 1), recipe.arch, recipe.name, checkpoint.Progress())
    monkeypatch.setattr(depth_teacher, "build_teacher", lambda config: nn.Linear(2, 1))
    with pytest.raises(ValueError, match=r"t\.pt holds the weights of another network: size mismatch"):
        load_any(tmp_path / "t.pt")


def test_the_teacher_is_not_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = RECIPES[DEPTH_TEACHER]
    checkpoint.save(tmp_path / "t.pt", nn.Linear(1, 1), recipe.arch, recipe.name, checkpoint.Progress())
    monkeypatch.setattr("sys.argv", ["models.export", str(tmp_path / "t.pt"), "--out", str(tmp_path / "zoo")])
    assert export.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 't.pt'} is the depth teacher")
