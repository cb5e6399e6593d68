"""Streams of a Bi-Real Net, scaled so that gradients pass its signs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from models.arch import build
from models.arch.config import SMALL_STEM, ArchConfig
from models.binarize.base import BinaryLayer, Phase, set_phase
from models.train.__main__ import main
from models.train.checkpoint import load
from models.train.hints import encoder_of
from models.train.recipe import PhaseSpec
from models.train.recipes import RECIPES, get_recipe
from models.train.streams import Scales, scale_streams

RMS = 0.9
CASES = (
    ArchConfig(depth=18, num_classes=5, width=0.25),
    ArchConfig(depth=50, num_classes=5, width=0.25),
    ArchConfig(depth=50, task="depth", width=0.25, max_disparity_px=90.0),
    ArchConfig(depth=34, num_classes=5, width=0.1, **SMALL_STEM),
    ArchConfig(depth=50, num_classes=5, width=0.1, first_1x1_real=False, stem_kernel=5),
)


def trained(config: ArchConfig) -> tuple[nn.Module, Tensor]:
    """A 1-bit network whose BatchNorms have statistics of the images, and weights and biases of any size."""
    torch.manual_seed(3)
    network = build(config).double()
    set_phase(network, Phase.BINARY)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
            module.eps = 1e-15  # it does not scale, so that now and then a sign would flip
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    images = torch.randn(6, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        network.train()(images)
    return network.eval(), images


def inputs_of_layers(network: nn.Module, images: Tensor) -> dict[tuple[int, str], list[Tensor]]:
    """What the 1-bit layers of each stage read, by the layer's place in its block, in training mode."""
    encoder = encoder_of(network).train()
    seen: dict[tuple[int, str], list[Tensor]] = {}
    handles = [
        layer.register_forward_pre_hook(
            lambda _, inputs, stage=index, place=place: seen.setdefault((stage, place), []).append(inputs[0].detach())
        )
        for index, stage in enumerate(encoder.stages)
        for block in stage.children()
        for place, layer in block.named_children()
        if isinstance(layer, BinaryLayer)
    ]
    encoder.features(images)
    for handle in handles:
        handle.remove()
    encoder.eval()
    return seen


@pytest.mark.parametrize("config", CASES, ids=lambda config: f"{config.task}-{config.depth}-{config.width}")
def test_a_one_bit_network_computes_the_same_and_its_signs_read_activations_of_the_given_size(
    config: ArchConfig,
) -> None:
    network, images = trained(config)
    with torch.no_grad():
        before = network(images)
        factors = scale_streams(network, images, RMS)
        after = network(images)
    assert all(0.03 < factor.wide < 0.9 for factor in factors[1:])  # there was something to scale
    assert torch.allclose(before, after, rtol=1e-6)

    seen = inputs_of_layers(network, images)
    for stage in range(4):
        # The first block of a stage reads the stream of the stage before, or the stem if its first 1x1 is binary.
        place = "reduce" if config.bottleneck else "body"
        wide = seen[stage, place][int(stage > 0 or (config.bottleneck and not config.first_1x1_real)) :]
        assert torch.stack([x.square().mean() for x in wide]).mean().sqrt().item() == pytest.approx(RMS, rel=0.02)
        if config.bottleneck:
            narrow = [x.square().mean() for x in seen[stage, "body"] + seen[stage, "expand"]]
            assert torch.stack(narrow).mean().sqrt().item() == pytest.approx(RMS, rel=0.02)


def test_gradients_pass_more_signs() -> None:
    network, images = trained(CASES[1])

    def share() -> float:
        """Share of the last stage's activations that ApproxSign passes a gradient to."""
        seen = inputs_of_layers(network, images).items()
        read = torch.cat([x.flatten() for (stage, _), inputs in seen if stage == 3 for x in inputs])
        return (read.abs() < 1.0).double().mean().item()

    before = share()
    scale_streams(network, images, RMS)
    assert before < 0.4
    assert share() > 0.6


def test_only_networks_that_read_signs_of_a_stream() -> None:
    images = torch.randn(2, 3, 64, 64)
    for method, structure in (("none", "bireal"), ("binarynet", "res"), ("xnornet", "bireal")):
        network = build(ArchConfig(depth=18, method=method, structure=structure, num_classes=5, width=0.25))
        with pytest.raises(ValueError, match="no 1-bit layers that read the signs of a stream"):
            scale_streams(network, images, RMS)


def test_a_recipe_scales_before_its_first_step_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data" / "train" / "n00000001"
    folder.mkdir(parents=True)
    (tmp_path / "data" / "classes.json").write_text('[{"index": 0, "wnid": "n00000001", "name": "noise"}]')
    for i in range(8):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{i}.png")
    recipe = replace(
        get_recipe("bireal18-tiny100"),
        name="small",
        arch=ArchConfig(depth=18, num_classes=1, width=0.25),
        phases=(PhaseSpec(Phase.BINARY, 2, 0.0),),
        batch=4,
        size=32,
        hold_out_per_class=4,
        bf16=False,
        teacher="",
        init="",
        stream_rms=RMS,
    )
    monkeypatch.setitem(RECIPES, recipe.name, recipe)
    arguments = ["small", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--threads", "1"]

    def gain(*more: str) -> float:
        """Weight of a BatchNorm of the last stage, which is 1 in a new network, after a run without learning."""
        monkeypatch.setattr(sys, "argv", ["models.train", *arguments, *more])
        assert main() == 0
        weight: Tensor = load(tmp_path / "out" / "last.pt")["network"]["stages.3.3.body.bn.weight"]
        return weight.mean().item()

    calls: list[float] = []

    def counted(network: nn.Module, images: Tensor, rms: float) -> list[Scales]:
        calls.append(rms)
        return scale_streams(network, images, rms)

    monkeypatch.setattr("models.train.streams.scale_streams", counted)
    assert 0.1 < gain() < 0.9
    gain("--resume")
    assert calls == [RMS], "a resumed run was scaled when it started"
    capsys.readouterr()
