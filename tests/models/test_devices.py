"""Training is ready for another device: no step mixes tensors of the CPU with those of the network's device.

There need not be a GPU: the step runs on PyTorch's meta device, where tensors have a shape and no values, under a mode
that looks at every operator. On a GPU the same mixing is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.arch import ArchConfig, build
from models.binarize import method_types
from models.binarize.base import Phase
from models.data.kitti import Frame
from models.train.classify import ClassifyTask
from models.train.depth import DepthTask
from models.train.device import device_of
from models.train.hints import add_hints
from models.train.loop import accumulate_gradients, run
from models.train.pretrained import imagenet_network
from models.train.recipe import PhaseSpec, Recipe
from models.train.recipes import get_recipe

META = torch.device("meta")
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}  # how a tensor comes onto the device
KNOWN = 5  # elements that a mask is taken to select: on the meta device nobody knows


class OneDevice(TorchDispatchMode):
    """Fails where an operator is given tensors of the CPU (single numbers apart) beside tensors of the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.on_device = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = any(t.device.type == "meta" for t in tensors)
        here = [t for t in tensors if t.device.type == "cpu" and t.ndim > 0]
        assert not (there and here and func not in COPIES), f"{func} is given a tensor of the CPU: {here[0].shape}"
        self.on_device += there
        if there and func is torch.ops.aten._local_scalar_dense.default:
            return 0.0 if args[0].is_floating_point() else 0
        masked = there and any(t.dtype == torch.bool for t in tensors)
        if masked and func is torch.ops.aten.index.Tensor:
            return args[0].new_empty(KNOWN)
        if masked and func in (torch.ops.aten.index_put.default, torch.ops.aten._index_put_impl_.default):
            return torch.empty_like(args[0])
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device has none; it moves no tensor."""
    monkeypatch.setattr(torch, "autocast", lambda *_args, **_options: nullcontext())


class Pictures(ClassifyTask):
    """`ClassifyTask` on noise in memory."""

    def __init__(self, recipe: Recipe, teacher: nn.Module | None = None) -> None:
        self.recipe, self.teacher, self.soft_labels, self.pretrained = recipe, teacher, None, None

    def steps_per_epoch(self) -> int:
        return 2

    def batches(self, spec: PhaseSpec, epoch: int, first_step: int) -> Iterator[tuple[Tensor, ...]]:
        for _ in range(first_step, self.steps_per_epoch()):
            yield torch.rand(4, 3, 32, 32) * 255, torch.arange(4)


def frames(recipe: Recipe, teacher: nn.Module) -> DepthTask:
    """`DepthTask` on four black frames."""
    task = DepthTask.__new__(DepthTask)
    image = np.zeros((160, 608, 3), np.uint8)
    task.train = [Frame("a", image, image, np.full((160, 608), 9.0, np.float32))] * 4
    task.recipe, task.teacher, task.pretrained, task._pass = recipe, teacher, None, np.arange(4)
    return task


def recipe_for(base: str, arch: ArchConfig, *phases: PhaseSpec, **fields: Any) -> Recipe:
    return replace(get_recipe(base), arch=arch, phases=phases, bf16=False, **fields)


def train_on_meta(recipe: Recipe, task: Any, out: Path, steps: int) -> int:
    """Steps of the loop; returns how many operators ran on the device."""
    network: nn.Module = build(recipe.arch)
    if recipe.hints > 0:
        add_hints(network, imagenet_network())
    network.to(META)
    assert device_of(network) == META
    with OneDevice() as mode:
        run(recipe, task, network, out, max_steps=steps, quiet=True)
    return mode.on_device


@pytest.mark.parametrize(
    ("method", "phase"), [("bireal", Phase.LEAKY_CLIP), *((method, Phase.BINARY) for method in sorted(method_types()))]
)
def test_a_classifier_trains_where_its_weights_are(method: str, phase: Phase, tmp_path: Path) -> None:
    structure = "bireal" if method == "bireal" else "res"
    arch = ArchConfig(depth=18, method=method, structure=structure, num_classes=4, width=0.25)
    recipe = recipe_for("bireal18-tiny100", arch, PhaseSpec(phase, 1, 0.1, "sgd", distill=0.5))
    with META:
        teacher = build(ArchConfig(depth=18, method="none", num_classes=4, width=0.25)).eval()
    # the last step of an epoch is logged: flipped signs and activations inside [-1, 1] are counted there
    task = Pictures(recipe, teacher)
    assert train_on_meta(recipe, task, tmp_path, task.steps_per_epoch()) > 500


def test_hints_come_from_a_network_on_the_same_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task itself brings the pretrained network to the device, so it is made as a run makes it."""
    monkeypatch.setattr("models.train.classify.best_device", lambda: META)
    (tmp_path / "classes.json").write_text('[{"index": 0, "wnid": "n0", "name": "a colour"}]')
    (tmp_path / "train" / "n0").mkdir(parents=True)
    for i in range(6):
        Image.new("RGB", (32, 32), (40 * i, 0, 0)).save(tmp_path / "train" / "n0" / f"{i}.png")
    arch = ArchConfig(depth=50, method="none", num_classes=1, width=0.125)
    phase = PhaseSpec(Phase.BINARY, 1, 0.1, "sgd")
    recipe = recipe_for("resnet50-half-tiny100", arch, phase, batch=4, size=32, hold_out_per_class=2)
    assert recipe.hints > 0
    assert train_on_meta(recipe, ClassifyTask(recipe, tmp_path), tmp_path / "run", 1) > 500


def test_batchnorm_is_retrained_where_it_is(tmp_path: Path) -> None:
    arch = ArchConfig(depth=50, num_classes=4, width=0.25)
    phases = [PhaseSpec(p, 1, 0.1, "sgd", batchnorm_only=p is Phase.BINARY) for p in (Phase.BINARY_1X1, Phase.BINARY)]
    for phase in phases:
        recipe = recipe_for("bireal18-tiny100", arch, phase)
        assert train_on_meta(recipe, Pictures(recipe), tmp_path / phase.phase.value, 1) > 500


@pytest.mark.parametrize(("method", "structure"), [("bireal", "bireal"), ("binarynet", "res"), ("none", "bireal")])
def test_a_depth_network_trains_where_its_weights_are(method: str, structure: str, tmp_path: Path) -> None:
    arch = ArchConfig(depth=50, method=method, structure=structure, task="depth", max_disparity_px=90.0, width=0.25)
    recipe = recipe_for(
        "bireal50-kitti-depth", arch, PhaseSpec(Phase.BINARY, 1, 0.1, "sgd", distill=0.5), batch=2, epoch_steps=1
    )
    with META:
        teacher = build(replace(arch, method="none")).eval()
    assert train_on_meta(recipe, frames(recipe, teacher), tmp_path, 1) > 500


class Numbers(TorchDispatchMode):
    """Counts tensors that become Python's numbers, for each of which a GPU stops to finish what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["classify", "depth"])
def test_a_step_that_is_not_logged_asks_the_device_for_no_number(kind: str) -> None:
    phase = PhaseSpec(Phase.BINARY, 1, 0.1, "sgd", distill=0.5)
    task: ClassifyTask | DepthTask
    if kind == "classify":
        arch = ArchConfig(depth=18, num_classes=4, width=0.125)
        task = Pictures(recipe_for("bireal18-tiny100", arch, phase), build(replace(arch, method="none")).eval())
    else:
        arch = ArchConfig(depth=50, task="depth", max_disparity_px=90.0, width=0.125)
        recipe = recipe_for("bireal50-kitti-depth", arch, phase, batch=2, epoch_steps=1)
        task = frames(recipe, build(replace(arch, method="none")).eval())
    network = build(arch)
    batch = next(task.batches(phase, 0, 0))
    with Numbers() as mode:
        _, figures = accumulate_gradients(task, network, batch, phase, 2)
        assert mode.count == 0
        assert all(value.ndim == 0 and not value.requires_grad for value in figures.values())
        assert figures[min(figures)].item() >= 0.0
        assert mode.count == 1, "what is logged is asked for"


def test_a_tensor_that_stayed_behind_is_found() -> None:
    with OneDevice(), pytest.raises(AssertionError, match="is given a tensor of the CPU"):
        torch.empty(3, device=META) * torch.ones(3)
