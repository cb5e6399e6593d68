"""The commands that measure a trained classifier see images as the service does, and name what they cannot read."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.arch import ArchConfig, build
from models.data import folder
from models.data.folder import ImageSet
from models.eval import calibration, held_out, resolution, stem
from models.train import checkpoint, statistics
from models.train.recipes import RECIPES

TINY = ArchConfig(depth=18, num_classes=1, width=0.125)


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Wide images whose left and right quarters are red; a recipe that crops their centre, which is black."""
    recipe = replace(RECIPES["paper-bireal18-imagenet"], name="flags", arch=TINY, size=32, resize_shorter=32)
    recipe = replace(recipe, hold_out_per_class=2, serve_size=0)
    for module in ("models.eval.held_out", "models.train.statistics"):
        monkeypatch.setattr(f"{module}.get_recipe", lambda _: recipe)
    (tmp_path / "classes.json").write_text('[{"index": 0, "wnid": "n0", "name": "a flag"}]')
    (tmp_path / "train" / "n0").mkdir(parents=True)
    flag = np.zeros((64, 128, 3), np.uint8)
    flag[:, :32, 0] = flag[:, 96:, 0] = 255
    for i in range(4):
        Image.fromarray(flag).save(tmp_path / "train" / "n0" / f"{i}.png")
    return tmp_path


def saved(data: Path, config: ArchConfig = TINY) -> Path:
    path = data / "run" / "best.pt"
    checkpoint.save(path, build(config), config, "flags", checkpoint.Progress())
    return path


def test_the_stem_is_measured_on_images_as_they_are_served(
    flags: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def correct(network: object, data: ImageSet, size: int, precision: str) -> NDArray[np.bool_]:
        seen.append(data.images[:])
        return np.ones(len(data), bool)

    monkeypatch.setattr(stem, "correct", correct)
    monkeypatch.setattr("sys.argv", ["stem", str(saved(flags)), "--data", str(flags), "--training-images", "1"])
    assert stem.main() == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["n"] for row in rows] == [2, 2, 2]
    assert [row["training"]["n"] for row in rows] == [1, 1, 1]
    assert [images.shape for images in seen] == [(2, 32, 32, 3), (1, 32, 32, 3)] * 3
    assert all(images[:, :, 1:-1].max() == 0 for images in seen)


def test_the_stems_are_compared_on_the_same_images(
    flags: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two images that float32 has right, the other precisions have one and none."""
    right = {"float32": [True, True], "int16": [True, False], "int8": [False, False]}
    monkeypatch.setattr(stem, "correct", lambda network, data, size, precision: np.array(right[precision]))
    monkeypatch.setattr("sys.argv", ["stem", str(saved(flags)), "--data", str(flags)])
    assert stem.main() == 0
    found = {row["stem"]: row["training"]["against_float32"] for row in json.loads(capsys.readouterr().out)}
    assert {name: one["estimate"] for name, one in found.items()} == {"float32": 0.0, "int16": -0.5, "int8": -1.0}
    assert all(one["lower"] < one["estimate"] + 1e-9 < one["upper"] + 2e-9 for one in found.values())


def test_the_stem_of_a_network_is_measured_by_running_it(
    flags: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one class, every answer is right; without images it was trained on, nothing is said of them."""
    monkeypatch.setattr("sys.argv", ["stem", str(saved(flags)), "--data", str(flags), "--training-images", "0"])
    assert stem.main() == 0
    assert json.loads(capsys.readouterr().out) == [
        {"stem": name, "top1": 1.0, "n": 2} for name in ("float32", "int16", "int8")
    ]


def test_images_that_a_network_was_trained_on_are_others_than_those_held_out(flags: Path) -> None:
    run = held_out.trained(saved(flags), flags)
    known = run.known(32, 100)
    assert isinstance(known.images, folder.ImageFiles), "none is in memory"
    assert [path.name for path in known.images.paths] == ["0.png", "1.png"]
    assert len(run.known(32, 1)) == 1
    assert len(run.known(32, 0)) == 0


@pytest.mark.parametrize("activation", ["", "relu"])
def test_a_real_valued_network_has_no_stem_precision(
    flags: Path, activation: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The counterpart of a Bi-Real net with an activation is of the same class."""
    path = saved(flags, replace(TINY, method="none", activation=activation))
    monkeypatch.setattr("sys.argv", ["stem", str(path), "--data", str(flags)])
    assert stem.main() == 2
    assert "is not a binary classifier" in capsys.readouterr().err


@pytest.mark.parametrize("command", [statistics, stem, calibration, resolution])
def test_a_damaged_image_ends_a_command_in_a_sentence(
    flags: Path, command: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images are decoded when they are used, of ImageNet in batches."""
    broken = flags / "train" / "n0" / ("0.png" if command is statistics else "3.png")
    broken.write_bytes(broken.read_bytes()[:60])
    monkeypatch.setattr(folder, "MEMORY_SHARE", 0.0)
    options = {statistics: ["--out", str(flags / "out.pt")], resolution: ["--sizes", "32"]}.get(command, [])
    monkeypatch.setattr("sys.argv", ["command", str(saved(flags)), "--data", str(flags), *options])
    assert command.main() == 2
    assert re.match(rf"error: {broken} cannot be read as an image", capsys.readouterr().err)
    assert not (flags / "out.pt").exists()
