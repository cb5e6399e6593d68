"""Classification: how answers are counted, and at which sizes images are decoded, cut and evaluated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.data.folder import load_split
from models.train.classify import ClassifyTask, accuracy
from models.train.recipes import RECIPES


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of 24 images of 32x32."""
    root = tmp_path_factory.mktemp("photos")
    wnids = [f"n0000000{i}" for i in range(4)]
    names = [{"index": i, "wnid": wnid, "name": f"kind {i}"} for i, wnid in enumerate(wnids)]
    (root / "small_classes.json").write_text(json.dumps(names))
    rng = np.random.default_rng(0)
    for wnid in wnids:
        folder = root / "train" / wnid
        folder.mkdir(parents=True)
        for i in range(24):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{i:02d}.png")
    return root


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_network_that_tells_nothing_apart_is_never_right(photos: Path, value: float) -> None:
    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full((len(x), 6), value)

    assert accuracy(Constant(), load_split(photos, "train", 32)) == {"top1": 0.0, "top5": 0.0}


def test_the_first_and_the_first_five_are_counted(photos: Path) -> None:
    class Same(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.0, 6.0, 5.0, 4.0, 3.0, 2.0]]).expand(len(x), 6)

    photos_in_memory = load_split(photos, "train", 32)
    found = accuracy(Same(1, 1), photos_in_memory)
    with pytest.raises(ValueError, match="has 3 classes, but the data have 4"):
        accuracy(
            torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.BatchNorm1d(3)),
            photos_in_memory,
        )
    assert found == {"top1": 0.25, "top5": 0.75}, "of four classes the second is first, and the first is sixth"


def test_the_papers_images_are_cut_from_256_pixels(photos: Path) -> None:
    recipe = replace(RECIPES["paper-real18-imagenet"], batch=16, hold_out_per_class=8)
    task = ClassifyTask(recipe, photos)
    assert task.train.images[:1].shape == (1, 256, 256, 3)
    assert next(task.batches(recipe.phases[0], 0, 0))[0].shape == (16, 3, 224, 224)
    seen = []

    class Watched(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(x.shape[1:]))
            return torch.cat([x.mean((2, 3)), x.mean((2, 3))], 1)

    task.evaluate(Watched(1, 1))
    assert set(seen) == {(3, 224, 224)}
