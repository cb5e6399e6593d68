"""Hints: an encoder learns a pretrained network's feature maps (models.train.hints)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.arch import ArchConfig, build
from models.binarize.base import Phase
from models.data.folder import ClassName, ImageSet
from models.data.normalise import normalise
from models.train import checkpoint
from models.train.classify import ClassifyTask
from models.train.depth import DepthTask
from models.train.depth_teacher import build_teacher
from models.train.hints import Hints, add_hints, correlation, hints_of
from models.train.initialise import initialise_from
from models.train.loop import run
from models.train.mosaic import TILES, MosaicTask, mosaics
from models.train.pretrained import feature_maps, imagenet_network, taps
from models.train.recipe import PhaseSpec
from models.train.recipes import DEPTH_TEACHER, RECIPES
from tests.models.test_depth_training import drive  # noqa: F401  a fixture
from tests.models.test_train import photos  # noqa: F401  a fixture

MAPS = {4: 24, 8: 40, 16: 112, 32: 320}  # stride: channels


def small(method: str = "none", **changes: object) -> ArchConfig:
    config = ArchConfig(depth=50, method=method, num_classes=4, width=0.125)
    return replace(config, **changes)  # type: ignore[arg-type]


def random_maps(images: Tensor) -> list[Tensor]:
    batch, _, height, width = images.shape
    return [torch.randn(batch, c, height // s, width // s) for s, c in MAPS.items()]


def test_correlation_is_pearsons() -> None:
    x, y = torch.randn(3, 2, 4, 5), torch.randn(3, 2, 4, 5)
    y[:, 1] = 2.0 - 3.0 * x[:, 1]
    found = correlation(x, y)
    expected = np.corrcoef(x[:, 0].flatten().numpy(), y[:, 0].flatten().numpy())[0, 1]
    assert found[0].item() == pytest.approx(expected, abs=1e-5)
    assert found[1].item() == pytest.approx(-1.0, abs=1e-5)


def test_the_pretrained_networks_maps_are_at_strides_4_to_32() -> None:
    network = imagenet_network().eval()
    assert list(taps(network).values()) == list(MAPS.values())
    with torch.no_grad():
        maps = feature_maps(network, torch.rand(1, 3, 64, 96) * 255.0)
    assert [tuple(m.shape) for m in maps] == [(1, c, 64 // s, 96 // s) for s, c in MAPS.items()]


@pytest.mark.parametrize("method", ["none", "bireal"])
def test_encoder_and_adapters_learn_the_maps(method: str) -> None:
    torch.manual_seed(0)
    network = build(small(method))
    add_hints(network, imagenet_network())
    images = torch.rand(4, 3, 64, 64)
    theirs = random_maps(images)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        network(images)
        loss: Tensor = hints_of(network)(theirs)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(1.0, abs=0.1), "random features have no correlation with random maps"
    assert losses[-1] < losses[0] - 0.1
    for module in (network.stages[0], network.stages[3], hints_of(network)):  # type: ignore[index]  # a ModuleList
        assert all(p.grad is not None for p in module.parameters() if p.requires_grad)


def test_evaluation_leaves_no_maps_behind() -> None:
    network = build(small())
    add_hints(network, imagenet_network())
    images = torch.rand(2, 3, 64, 64)
    network.eval()
    with torch.no_grad():
        network(images)
    network.train()
    network(images)
    assert 0.0 < hints_of(network)(random_maps(images)).item() < 2.0


def test_a_checkpoint_with_adapters_is_a_network_without_them_and_lends_them(tmp_path: Path) -> None:
    config = small()
    network = build(config)
    add_hints(network, imagenet_network())
    checkpoint.save(tmp_path / "c.pt", network, config, "small", checkpoint.Progress())
    loaded = checkpoint.load_network(tmp_path / "c.pt")
    assert not any(isinstance(m, Hints) for m in loaded.modules())
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), network.eval()(images))
    depth = build(small(task="depth", max_disparity_px=90.0))
    add_hints(depth, imagenet_network())
    initialise_from(depth, tmp_path / "c.pt")
    assert torch.equal(hints_of(depth).adapters[3].weight, hints_of(network).adapters[3].weight)  # type: ignore[arg-type]


def test_a_classifiers_loss_has_the_hints(photos: Path) -> None:  # noqa: F811
    recipe = replace(
        RECIPES["resnet50-half-tiny100"], arch=small(), batch=4, size=64, hold_out_per_class=2, epoch_steps=1
    )
    task = ClassifyTask(recipe, photos)
    network = build(recipe.arch)
    add_hints(network, imagenet_network())
    batch = next(task.batches(recipe.phases[0], 0, 0))
    torch.manual_seed(0)
    loss, figures = task.loss(network, batch, recipe.phases[0])
    task.pretrained = None
    alone, _ = task.loss(network, batch, recipe.phases[0])
    assert (loss - alone).item() == pytest.approx(recipe.hints * figures["hints"].item(), rel=1e-3)


def test_a_depth_networks_hints_are_its_teachers_maps(drive: Path) -> None:  # noqa: F811
    recipe = replace(
        RECIPES["resnet50-half-kitti-depth"], arch=small(task="depth", max_disparity_px=90.0), batch=2, bf16=False
    )
    teacher = build_teacher(RECIPES[DEPTH_TEACHER].arch).eval()
    task = DepthTask(recipe, drive.parent.parent, teacher)
    network = build(recipe.arch)
    add_hints(network, teacher.backbone)
    batch = next(task.batches(recipe.phases[0], 0, 0))
    total, figures = task.loss(network, batch, recipe.phases[0])
    assert 0.0 < figures["hints"] < 2.0
    task.recipe = replace(recipe, hints=0.0)
    without, plain = task.loss(network, batch, recipe.phases[0])
    assert plain["teacher"].item() == pytest.approx(figures["teacher"].item(), rel=1e-4), "the same map"
    assert (total - without).item() == pytest.approx(recipe.hints * figures["hints"].item(), rel=1e-2)
    with pytest.raises(ValueError, match=DEPTH_TEACHER):
        DepthTask(recipe, drive.parent.parent, nn.Identity())


def test_hints_beside_a_teacher_of_ours_are_the_maps_of_an_imagenet_network(drive: Path) -> None:  # noqa: F811
    """A recipe with its twin as the teacher was refused: our networks have no maps that the adapters could learn."""
    arch = small(task="depth", max_disparity_px=90.0)
    recipe = replace(RECIPES["resnet50-half-kitti-depth"], arch=arch, batch=2, bf16=False, teacher="a twin")
    twin = build(arch).eval()
    task = DepthTask(recipe, drive.parent.parent, twin)
    network = build(arch)
    add_hints(network, imagenet_network())
    batch = next(task.batches(recipe.phases[0], 0, 0))
    _, figures = task.loss(network, batch, recipe.phases[0])
    assert task.pretrained is not None
    answer, maps = task._answer(normalise(batch[0]), batch[0])
    assert torch.equal(answer, twin(normalise(batch[0])))
    assert all(torch.equal(*pair) for pair in zip(maps, feature_maps(task.pretrained, batch[0]), strict=True))
    assert 0.0 < figures["hints"] < 2.0


def test_a_mosaic_is_photos_side_by_side_in_one_tile_size() -> None:
    plain = np.repeat(np.arange(1, 9, dtype=np.uint8) * 30, 64 * 64 * 3).reshape(8, 64, 64, 3)
    photos_of_one_colour = ImageSet(plain, np.zeros(8, np.int64), (ClassName("n0", "plain"),))
    seen = set()
    for seed in range(16):
        pixels = mosaics(photos_of_one_colour, 2, 0.5, np.random.default_rng(seed)).round()
        assert pixels.shape == (2, 3, 192, 384)
        sizes = [s for s in TILES if all((t == t.flatten()[0]).all() for t in tiles_of(pixels, s))]
        seen.add(max(sizes))
        assert len({t.flatten()[0].item() for t in tiles_of(pixels, max(sizes))}) > 1, "different photos"
    assert seen == set(TILES)


def tiles_of(pixels: Tensor, side: int) -> list[Tensor]:
    """The tiles of one channel, [side,side] each."""
    return list(pixels[:, 0].unfold(1, side, side).unfold(2, side, side).reshape(-1, side, side))


def test_a_depth_networks_encoder_learns_on_from_mosaics_and_goes_back(photos: Path, tmp_path: Path) -> None:  # noqa: F811  a fixture
    depth = small(task="depth", num_classes=0, max_disparity_px=90.0)
    first = build(depth)
    checkpoint.save(tmp_path / "depth.pt", first, depth, "small", checkpoint.Progress())
    recipe = replace(
        RECIPES["resnet50-half-mosaics"], arch=small(), phases=(PhaseSpec(Phase.RELU, 1, 2e-3),), batch=1, epoch_steps=6
    )
    network = build(recipe.arch)
    add_hints(network, imagenet_network())
    fresh = initialise_from(network, tmp_path / "depth.pt")
    assert {name.split(".")[0] for name in fresh} == {"fc", "hints"}
    task = MosaicTask(replace(recipe, hold_out_per_class=4), photos)
    before = task.evaluate(network)["correlation"]
    progress = run(recipe, task, network, tmp_path / "run", quiet=True)
    assert progress.metrics["correlation"] > before + 0.01
    assert progress.best == progress.metrics["correlation"]
    back = build(depth)
    assert all(not name.startswith("encoder.") for name in initialise_from(back, tmp_path / "run" / "best.pt"))
    resumed = [next(task.batches(recipe.phases[0], 0, 4))[0], next(task.batches(recipe.phases[0], 0, 4))[0]]
    assert torch.equal(*resumed)
    assert not torch.equal(resumed[0], next(task.batches(recipe.phases[0], 1, 4))[0])
