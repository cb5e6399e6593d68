"""The commands that measure a trained classifier see images as the service does, and name what they cannot read."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from models.arch import ArchConfig, build
from models.data import folder
from models.data.folder import ImageSet
from models.eval import calibration, resolution, stem
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

    def top1(network: object, data: ImageSet, size: int, precision: str) -> float:
        seen.append(data.images[:])
        return 0.5

    monkeypatch.setattr(stem, "top1", top1)
    monkeypatch.setattr("sys.argv", ["stem", str(saved(flags)), "--data", str(flags)])
    assert stem.main() == 0
    assert [row["n"] for row in json.loads(capsys.readouterr().out)] == [2, 2, 2]
    assert all(images.shape == (2, 32, 32, 3) and images[:, :, 1:-1].max() == 0 for images in seen)


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
