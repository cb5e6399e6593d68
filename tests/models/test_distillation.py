"""Labels of a teacher for fixed views, and training on from a served model."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from models.arch import ArchConfig
from models.binarize.base import Phase
from models.data.augment import cut
from models.data.folder import ClassName, ImageSet
from models.data.normalise import normalise
from models.data.views import VIEW_SEED, labels_path, view_batches, view_crops
from models.export.convert import to_onnx
from models.train.classify import ClassifyTask, SoftLabels
from models.train.optim import learning_rate
from models.train.recipe import PhaseSpec
from models.train.recipes import get_recipe
from models.train.recover import Weights
from models.train.statistics import measure_statistics, training_files
from tests.models.test_export import random_network
from tests.models.test_train import photos, small_recipe  # noqa: F401  a fixture

CLASSES = tuple(ClassName(f"n{i}", str(i)) for i in range(4))


def images(count: int, size: int = 32) -> ImageSet:
    rng = np.random.default_rng(3)
    return ImageSet(rng.integers(0, 256, (count, size, size, 3), np.uint8), np.arange(count) % 4, CLASSES)


def test_a_view_is_the_same_crop_in_every_epoch_but_for_mirroring() -> None:
    data = images(12)
    crops = view_crops(12, 0.35, VIEW_SEED, 0)
    assert torch.equal(crops, view_crops(12, 0.35, VIEW_SEED, 0))
    assert not torch.equal(crops, view_crops(12, 0.35, VIEW_SEED, 1))
    seen = {}
    for epoch in (0, 4):
        for batch, labels, index in view_batches(data, crops, batch=4, size=24, seed=1, epoch=epoch):
            assert torch.equal(labels, torch.from_numpy(data.labels)[index])
            for image, i in zip(batch, index.tolist(), strict=True):
                known = seen.setdefault(i, image)
                assert torch.equal(image, known) or torch.equal(image.flip(2), known)
    assert sorted(seen) == list(range(12))
    # the same crop at another size: its average stays, but for the sampling
    small, large = (cut(torch.from_numpy(data.images), crops, size) for size in (32, 64))
    assert torch.allclose(small.mean(dim=(2, 3)), large.mean(dim=(2, 3)), atol=12.0)


def test_an_order_of_views_is_resumed_exactly() -> None:
    data, crops = images(16), view_crops(16, 0.5, 1, 0)
    whole = list(view_batches(data, crops, batch=4, size=16, seed=2, epoch=3))
    rest = list(view_batches(data, crops, batch=4, size=16, seed=2, epoch=3, first_step=2))
    assert torch.equal(whole[2][0], rest[0][0])
    assert torch.equal(whole[3][2], rest[1][2])


@pytest.mark.parametrize("first", [0, 5])
def test_soft_labels_are_those_of_the_view_and_the_image(
    first: int,
    photos: Path,  # noqa: F811  a fixture
    tmp_path: Path,
) -> None:
    phase = PhaseSpec(Phase.BINARY, 2, 1e-3, distill=0.5)
    recipe = replace(small_recipe(), phases=(phase,), soft_labels=True, views=2, first_view=first, temperature=2.0)
    count = 4 * (24 - recipe.hold_out_per_class)
    # the logits say which image and which view they are of
    for view in (first, first + 1):
        path = labels_path(tmp_path, recipe.min_scale, view)
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.stack([np.arange(count) + 100 * view] * 4, 1).astype(np.float16))
    task = ClassifyTask(recipe, photos, None, tmp_path)
    for epoch in range(3):
        crops = view_crops(count, recipe.min_scale, VIEW_SEED, first + epoch % 2)
        for batch, labels, soft in task.batches(phase, epoch, 0):
            index = soft[:, 0].long() - 100 * (first + epoch % 2)
            assert torch.equal(torch.from_numpy(task.train.labels)[index], labels)
            expected = cut(torch.from_numpy(task.train.images[index.numpy()]), crops[index], recipe.size)
            for ours, crop in zip(batch, expected, strict=True):
                assert torch.equal(ours, crop) or torch.equal(ours, crop.flip(2))
    with pytest.raises(FileNotFoundError, match=rf"view-{first + 2}\.npy"):
        SoftLabels(tmp_path, recipe.min_scale, count)(first + 2, torch.tensor([0]))
    with pytest.raises(FileNotFoundError, match=r"--first-view 0, --views .* and --min-scale 0\.9"):
        SoftLabels(tmp_path, 0.9, count)(0, torch.tensor([0]))
    with pytest.raises(ValueError, match="labels 64 images, but the training set has 65"):
        SoftLabels(tmp_path, recipe.min_scale, count + 1)(first, torch.tensor([0]))
    with pytest.raises(ValueError, match="--soft-labels"):
        ClassifyTask(recipe, photos)


def test_distillation_pulls_towards_the_teachers_answers(photos: Path, tmp_path: Path) -> None:  # noqa: F811
    phase = PhaseSpec(Phase.CLIP, 1, 1e-3, distill=1.0)
    recipe = replace(small_recipe(), phases=(phase,), soft_labels=True, views=1, temperature=2.0)
    soft = np.random.default_rng(0).normal(0, 3, (64, 4)).astype(np.float16)
    path = labels_path(tmp_path, recipe.min_scale, 0)
    path.parent.mkdir()
    np.save(path, soft)
    task = ClassifyTask(recipe, photos, None, tmp_path)
    batch = next(task.batches(phase, 0, 0))

    class Says(nn.Module):
        def __init__(self, logits: torch.Tensor) -> None:
            super().__init__()
            self.logits = logits

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.logits

    agree, _ = task.loss(Says(batch[2]), batch, phase)
    other, _ = task.loss(Says(batch[2].roll(1, dims=1)), batch, phase)
    p = (batch[2] / 2).softmax(1)
    assert agree.item() == pytest.approx(4 * -(p * p.log()).sum(1).mean().item(), rel=1e-5)
    assert other > agree


@pytest.mark.parametrize(("shorter", "red"), [(0, 0.5), (40, 0.0)])
def test_statistics_are_of_images_cropped_as_the_service_crops_them(shorter: int, red: float, tmp_path: Path) -> None:
    """A wide image whose left and right quarters are red: a recipe with ``resize_shorter`` sees its centre only."""
    (tmp_path / "classes.json").write_text('[{"index": 0, "wnid": "n0", "name": "a flag"}]')
    (tmp_path / "train" / "n0").mkdir(parents=True)
    flag = np.zeros((64, 128, 3), np.uint8)
    flag[:, :32, 0] = flag[:, 96:, 0] = 255
    Image.fromarray(flag).save(tmp_path / "train" / "n0" / "0.png")
    recipe = replace(small_recipe(), resize_shorter=shorter, hold_out_per_class=0)
    seen = training_files(recipe, tmp_path, recipe.size)
    assert (seen.images[np.array([0])][0, :, :, 0] / 255).mean() == pytest.approx(red, abs=0.01)


def test_linear_and_constant_schedules() -> None:
    linear = PhaseSpec(Phase.BINARY, 1, 1.0, schedule="linear", warmup=0.1)
    assert [learning_rate(linear, s, 100, 100) for s in (0, 10, 55, 99)] == pytest.approx([0.1, 1.0, 0.5, 1 / 90])
    assert learning_rate(replace(linear, schedule="constant"), 99, 100, 100) == 1.0
    with pytest.raises(ValueError, match="unknown schedule"):
        learning_rate(replace(linear, schedule="none"), 50, 100, 100)


def test_recipes_that_start_from_served_models_name_them() -> None:
    for network, step in product(("resnet18", "bireal18"), ("long", "large", "further", "again", "more")):
        recipe = get_recipe(f"{network}-tiny100-{step}")
        assert recipe.soft_labels
        assert get_recipe(recipe.init).arch == recipe.arch
        assert json.dumps(recipe.init)


def test_an_epoch_may_be_shorter_than_the_data(photos: Path, tmp_path: Path) -> None:  # noqa: F811
    phase = PhaseSpec(Phase.CLIP, 1, 1e-3)
    recipe = replace(small_recipe(), phases=(phase,), epoch_steps=2)
    task = ClassifyTask(recipe, photos)
    whole = ClassifyTask(replace(recipe, epoch_steps=0), photos)
    assert (task.steps_per_epoch(), whole.steps_per_epoch()) == (2, 4)
    ours, theirs = list(task.batches(phase, 0, 0)), list(whole.batches(phase, 0, 0))
    assert [len(ours), len(theirs)] == [2, 4]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(ours, theirs, strict=False))
    assert len(list(task.batches(phase, 0, 1))) == 1
    assert list(task.batches(phase, 0, 3)) == [], "a run that was longer goes on with its next phase"


def test_8_bit_1x1_convolutions_are_read_with_their_scales() -> None:
    source = random_network(ArchConfig(depth=18, method="bireal", num_classes=4, width=0.25))
    exact = Weights(to_onnx(source, 64, 64, pointwise_precision="float32", half=False))
    eight = Weights(to_onnx(source, 64, 64, pointwise_precision="int8"))
    for name in ("stage2_0_down_weight", "fc_weight"):
        assert torch.allclose(eight(name), exact(name), atol=float(exact(name).abs().max()) / 127)


def test_statistics_are_those_of_the_whole_images() -> None:
    network = random_network(ArchConfig(depth=18, method="none", num_classes=4, width=0.25), 0)
    weights = [p.clone() for p in network.parameters()]
    pictures = torch.from_numpy(images(256, 32).images).permute(0, 3, 1, 2).float()
    measure_statistics(network, pictures)
    with torch.no_grad():
        stem = network.stem[0](normalise(pictures))
    assert torch.allclose(network.stem[1].running_mean, stem.mean(dim=(0, 2, 3)), atol=1e-4)
    assert not network.training
    assert all(torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))


def test_statistics_weigh_every_image_alike() -> None:
    """Of 130 images, the last two made a batch of their own, and half of the statistics."""
    network = nn.Sequential(nn.BatchNorm2d(3))
    pictures = torch.zeros(130, 3, 4, 4)
    pictures[-2:] = 255.0
    measure_statistics(network, pictures)
    assert torch.allclose(network[0].running_mean, normalise(pictures).mean(dim=(0, 2, 3)), atol=1e-5)
