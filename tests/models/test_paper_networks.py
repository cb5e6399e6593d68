"""The paper's networks, all of them: depths, structures, stems, phases, and what each depth and method serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.accounting import cost_of
from models.arch import SMALL_STEM, ArchConfig, build
from models.binarize.base import BinaryActivation, BinaryConv2d, Phase, set_phase
from models.export.card import make_card, write_model
from models.export.convert import to_onnx
from models.export.cost import cost_of_graph
from models.export.verify import smooth_images
from models.train.recipes import get_recipe
from service.backends import backend_for
from service.backends.audit import Audit
from service.card import Card
from tests.models.test_export import export_to
from tests.models.test_methods import label, network_for

STRUCTURES = ("bireal", "res", "plain")
CONVOLUTIONS = {18: 16, 34: 32, 50: 48, 152: 150}  # inside blocks: the depth less stem and classifier
LAST_CHANNELS = {18: 512, 34: 512, 50: 2048, 152: 2048}


@pytest.mark.parametrize("depth", sorted(CONVOLUTIONS))
@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_depth_and_structure_exists_binary_and_real(depth: int, structure: str) -> None:
    """With both stems; Fig. 10's three structures have the same number of weights."""
    arch = ArchConfig(depth=depth, structure=structure)
    with torch.device("meta"):
        network = build(arch)
        layers = [m for m in network.modules() if isinstance(m, BinaryConv2d)]
        # the official code keeps the very first 1x1 of its bottlenecks real-valued
        first = int(structure == "bireal" and depth >= 50)
        assert len(layers) == CONVOLUTIONS[depth] - first
        weights = sum(m.weight.numel() for m in layers) + first * 64 * 64
        res = network if structure == "res" else build(replace(arch, structure="res"))
        assert weights == sum(m.weight.numel() for m in res.modules() if isinstance(m, BinaryConv2d))
        assert network(torch.empty(1, 3, 224, 224)).shape == (1, 1000)
        relu = build(replace(arch, method="none", activation="relu"))
        assert relu(torch.empty(1, 3, 224, 224)).shape == (1, 1000)
        clip = build(replace(arch, method="none", activation="clip", **SMALL_STEM))
        maps = clip.features(torch.empty(2, 3, 32, 32))  # type: ignore[operator]
        assert [m.shape[-1] for m in maps] == [32, 16, 8, 4]
        assert maps[-1].shape[1] == LAST_CHANNELS[depth]


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize(("phase", "activation"), [(Phase.RELU, "relu"), (Phase.CLIP, "clip")])
def test_pretraining_trains_the_real_valued_row_of_table_1(structure: str, phase: Phase, activation: str) -> None:
    """A 1-bit network in a real-valued phase is the network with that activation, weight for weight."""
    binary = network_for(ArchConfig(depth=18, structure=structure, num_classes=4, width=0.25, **SMALL_STEM))
    set_phase(binary, phase)
    real = build(replace(binary.config, method="none", activation=activation)).eval()  # type: ignore[arg-type]
    real.load_state_dict(binary.state_dict())
    x = torch.randn(2, 3, 16, 16)
    assert torch.allclose(binary(x), real(x), atol=1e-5)


def test_the_first_of_two_steps_keeps_the_3x3_weights_real() -> None:
    """Sec. 3.4.4: signs in every activation and in the weights of every 1x1."""
    network = build(ArchConfig(depth=50, num_classes=4, width=0.25)).eval()
    set_phase(network, Phase.BINARY_1X1)
    layers = [m for m in network.modules() if isinstance(m, BinaryConv2d)]
    assert [m.weights_are_binary for m in layers] == [m.kernel_size == (1, 1) for m in layers]
    assert sum(m.weights_are_binary for m in layers) == 31
    seen: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, BinaryActivation):
            module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    network(torch.randn(1, 3, 32, 32))
    assert len(seen) == len(layers)
    assert all(set(output.unique().tolist()) <= {-1.0, 1.0} for output in seen)


BASELINE_DEPTH = [
    ArchConfig(
        depth=50, method=method, structure="res", task="depth", width=0.25, max_disparity_px=90.0, options=options
    )
    for method, options in (
        ("binarynet", {}),
        ("xnornet", {}),
        ("xnornet", {"k_map": False}),
        ("abcnet", {"weight_bases": 2, "activation_bases": 2}),
    )
]


@pytest.mark.parametrize("config", BASELINE_DEPTH, ids=label)
def test_depth_networks_of_the_baselines_are_served_and_counted(config: ArchConfig, tmp_path: Path) -> None:
    """Table 8's BinaryNet column, and the others in its place: both variants, exact sums, the same work on the card."""
    network = network_for(config)
    model = to_onnx(network, 64, 96)  # type: ignore[arg-type]
    recipe = replace(get_recipe("bireal50-kitti-depth"), name=f"{config.method}50-depth")
    card = make_card(
        recipe.name,
        "1",
        config,
        recipe,
        model,
        height=64,
        width=96,
        classes=(),
        stem_precision="int16",
        pointwise_precision="int8",
        provenance={"command": "python -m models.train", "hardware": "none"},
        wall_time_s=1.0,
        notes="",
        metrics=[],
    )
    card = Card.load(write_model(card, model, tmp_path))
    assert (card.network.method, card.network.structure, card.full) == (config.method, "res", recipe.init)
    counted, graph = cost_of(config, 64, 96), cost_of_graph(model)
    assert (card.work.binary_macs, card.work.real_macs, card.work.bops) == (
        counted.binary_macs,
        counted.real_macs,
        counted.bops,
    )
    assert graph.binary_macs == counted.binary_macs
    assert graph.binary_params == counted.binary_params == card.weights.binary_params
    images = smooth_images(2, 64, 96)
    for variant in card.variants:
        metres = backend_for(variant).load(card, variant, intra_op_threads=1).run(images)
        assert metres.shape == (2, 64, 96)
        assert card.depth is not None
        assert card.depth.min_m * 0.999 <= metres.min()
        assert metres.max() <= card.depth.max_m * 1.001
    layers = Audit.of_card(card).compare(images)
    assert sum(layer.sums for layer in layers) > 50_000
    assert [layer for layer in layers if not layer.exact] == []


@pytest.mark.slow
@pytest.mark.parametrize("depth", [34, 50, 152])
def test_every_depth_is_served_at_full_width_and_224(depth: int, tmp_path: Path) -> None:
    """Random weights: every integer sum of one image is equal, and both variants answer."""
    config = ArchConfig(depth=depth, num_classes=10)
    card = export_to(tmp_path, config, size=224)
    image = smooth_images(1, 224, 224)
    for variant in card.variants:
        logits = backend_for(variant).load(card, variant, intra_op_threads=1).run(image)
        assert logits.shape == (1, 10)
        assert np.isfinite(logits).all()
    layers = Audit.of_card(card).compare(image)
    assert sum(layer.op == "BConv" for layer in layers) == CONVOLUTIONS[depth] - (depth >= 50)
    assert [layer for layer in layers if not layer.exact] == []
