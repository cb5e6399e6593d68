"""A deeper network starts with the function of the shallower one, and learns to differ from it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.arch import ArchConfig, build
from models.train import checkpoint
from models.train.deepen import can_deepen, deepen
from models.train.initialise import initialise_from
from models.train.recipes import RECIPES

NETWORKS = {
    "bireal": ArchConfig(depth=18, num_classes=4, width=0.125),
    "full": ArchConfig(depth=18, method="none", num_classes=4, width=0.125),
}


def trained(arch: ArchConfig) -> torch.nn.Module:
    """A network whose BatchNorms are not those of a new one, so that exchanged or lost tensors show."""
    torch.manual_seed(5)
    network = build(arch)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 1.0, 0.3)
            torch.nn.init.normal_(module.bias, 0.0, 0.3)
    network.train()
    for _ in range(3):
        network(torch.randn(8, 3, 64, 64))
    return network.eval()


@pytest.mark.parametrize("kind", NETWORKS)
def test_34_layers_start_with_the_function_of_18(kind: str, tmp_path: Path) -> None:
    shallow, arch = trained(NETWORKS[kind]), replace(NETWORKS[kind], depth=34)
    checkpoint.save(tmp_path / "18.pt", shallow, NETWORKS[kind], "small", checkpoint.Progress())
    deep = build(arch)
    assert initialise_from(deep, tmp_path / "18.pt") == [], "every weight has a value"
    x = torch.randn(8, 3, 64, 64)
    assert torch.equal(deep.eval()(x), shallow(x))
    assert sum(p.numel() for p in deep.parameters()) > 1.8 * sum(p.numel() for p in shallow.parameters())


@pytest.mark.parametrize("kind", NETWORKS)
def test_added_blocks_learn(kind: str) -> None:
    torch.manual_seed(6)
    arch = replace(NETWORKS[kind], depth=34)
    deep = build(arch)
    deep.load_state_dict(deepen(trained(NETWORKS[kind]).state_dict(), NETWORKS[kind], arch))
    added = [
        name for name in deep.state_dict() if name.startswith("stages.2.11." if kind == "bireal" else "stages.2.5.")
    ]
    before = {name: deep.state_dict()[name].clone() for name in added if name.endswith("weight")}
    optimizer = torch.optim.SGD(deep.parameters(), lr=0.1)
    x, labels = torch.randn(8, 3, 64, 64), torch.arange(8) % 4
    for _ in range(2):  # the first step moves the BatchNorm that silences the block, the second one its convolution
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(deep(x), labels).backward()
        optimizer.step()
    after = deep.state_dict()
    assert before
    assert all(not torch.equal(after[name], value) for name, value in before.items())


def test_only_networks_of_one_kind_and_width_grow() -> None:
    small = NETWORKS["bireal"]
    deeper = replace(small, depth=34)
    assert can_deepen(small, deeper)
    assert not can_deepen(deeper, small)
    assert not can_deepen(small, replace(deeper, width=0.25))
    assert not can_deepen(small, replace(deeper, method="xnornet"))
    assert not can_deepen(replace(small, structure="res"), replace(deeper, structure="res"))
    assert not can_deepen(replace(small, method="none"), replace(deeper, method="none", activation="relu"))
    assert not can_deepen(replace(small, depth=50), replace(small, depth=152))
    with pytest.raises(ValueError, match="18 layers cannot grow to 50"):
        deepen({}, small, replace(small, depth=50))


@pytest.mark.parametrize("name", ["bireal34-tiny100-grown", "resnet34-tiny100-grown"])
def test_recipes_of_34_layers_start_from_18(name: str) -> None:
    recipe = RECIPES[name]
    assert can_deepen(RECIPES[recipe.init].arch, recipe.arch)
