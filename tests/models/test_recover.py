"""Training on from a served model: its graph read back into the network that it was exported from."""

import json
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from models.arch import SMALL_STEM, ArchConfig, BiRealNet, DepthNet, build
from models.data.normalise import normalise
from models.export import __main__ as export
from models.export.convert import to_onnx
from models.train import checkpoint, recover
from models.train.classify import served_shorter
from models.train.initialise import initialise_from
from models.train.provenance import write_provenance
from models.train.recipes import RECIPES
from models.train.recover import calibrate, calibration_images
from models.train.recover_weights import (
    Weights,
    complete_arch,
    fill_bireal,
    fill_fc,
    fill_resnet,
    fill_scores,
    move_into_scores,
)
from service.card import Card
from service.errors import ModelBrokenError
from tests.models.test_distillation import images
from tests.models.test_export import export_to, random_network

ZOO = Path(__file__).resolve().parents[2] / "models" / "zoo"


class Exploding(nn.Module):
    """Multiplies what it gets of white images by 1000."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.where(x.mean(dim=(1, 2, 3), keepdim=True) > 2.0, 1000.0, 1.0)


def test_a_few_images_that_make_activations_explode_do_not_set_the_statistics() -> None:
    """Training would diverge: a batch without such an image would be multiplied by hundreds."""
    network = nn.Sequential(Exploding(), nn.BatchNorm2d(3))
    usual = 40.0 + 60.0 * torch.rand(100, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    pictures = torch.cat([usual[:50], torch.full((2, 3, 8, 8), 255.0), usual[50:]])
    x = normalise(pictures)
    before = network.eval()(x)
    calibrate(network, pictures)
    assert torch.allclose(network(x), before, rtol=1e-4, atol=1e-4), "the function stays the same"
    bn = network[1]
    assert torch.allclose(bn.running_var, normalise(usual).var(dim=(0, 2, 3)), rtol=0.1)
    network.train()
    assert network(normalise(usual)).std() < 2 * before[:50].std()


@pytest.mark.parametrize(("method", "pointwise"), [("none", "float32"), ("bireal", "float32"), ("bireal", "int8")])
def test_a_checkpoint_recovered_from_a_graph_computes_what_the_graph_does(method: str, pointwise: str) -> None:
    config = ArchConfig(depth=18, method=method, num_classes=4, width=0.25)
    source = random_network(config)
    get = Weights(to_onnx(source, 64, 64, stem_precision="float32", pointwise_precision=pointwise, half=False))
    network = build(config)
    if isinstance(network, BiRealNet):
        fill_bireal(network, get, None)
    else:
        fill_resnet(network, get)
    fill_fc(network.fc, get)
    pictures = torch.from_numpy(images(256, 64).images).permute(0, 3, 1, 2).float()
    network.eval()
    before = network(normalise(pictures))
    calibrate(network, pictures)
    x = normalise(pictures)
    with torch.no_grad():
        theirs, ours = source(x), network.eval()(x)
        network.train()
        training = network(x[:128])
    # a sign or two of a binary network turns by rounding, more with 8-bit weights: closeness is that of most answers
    near = 0.5 if pointwise == "int8" else 0.05
    for answer in (before, ours):
        assert torch.median((answer - theirs).abs()) < near * theirs.std()
    assert torch.median((training - theirs[:128]).abs()) < 0.5 * theirs.std(), "training starts without a jump"


def test_magnitudes_come_from_the_twin(tmp_path: Path) -> None:
    config = ArchConfig(depth=18, method="bireal", num_classes=4, width=0.25)
    full = replace(config, method="none")
    twin = build(full)
    checkpoint.save(tmp_path / "full.pt", twin, full, "full", checkpoint.Progress())
    lender, source, network = BiRealNet(config), random_network(config), BiRealNet(config)
    initialise_from(lender, tmp_path / "full.pt")
    fill_bireal(network, Weights(to_onnx(source, 64, 64, pointwise_precision="float32", half=False)), lender)
    theirs = source.stages[1][0].body.conv.weight
    ours = network.stages[1][0].body.conv.weight
    assert torch.equal(ours < 0, theirs < 0)
    lent = lender.stages[1][0].body.conv.weight.abs()
    ratio = ours.abs() / (lent / lent.mean(dim=(1, 2, 3), keepdim=True)).clamp(min=1e-3)
    assert torch.allclose(ratio, ratio.mean(), rtol=1e-4)


@pytest.mark.parametrize("method", ["none", "bireal"])
def test_a_depth_network_is_recovered_too(method: str) -> None:
    config = ArchConfig(depth=50, method=method, task="depth", width=0.25, max_disparity_px=90.0)
    source = random_network(config)
    assert isinstance(source, DepthNet)
    for score in source.scores:
        nn.init.normal_(score.weight, std=0.02)
        nn.init.constant_(score.bias, 0.1)
    get = Weights(to_onnx(source, 64, 96, stem_precision="float32", pointwise_precision="float32", half=False))
    network = build(config)
    assert isinstance(network, DepthNet)
    if isinstance(network.encoder, BiRealNet):
        fill_bireal(network.encoder, get, None)
    else:
        fill_resnet(network.encoder, get)
    fill_scores(network, get)
    pictures = torch.from_numpy(images(16, 96).images[:, :64]).permute(0, 3, 1, 2).float()
    calibrate(network, pictures)
    move_into_scores(network)
    x = normalise(pictures)
    with torch.no_grad():
        theirs, ours = source(x).log(), network.eval()(x).log()
    assert torch.median((theirs - ours).abs()) < 0.05 * theirs.std()
    assert all((norm.weight == 1.0).all() for norm in network.norms), "score maps keep weights of a trainable size"


def test_8_bit_weights_of_a_bottleneck_come_back_within_half_a_step() -> None:
    config = ArchConfig(depth=50, method="bireal", num_classes=4, width=0.25)
    source, network = random_network(config), BiRealNet(config)
    fill_bireal(network, Weights(to_onnx(source, 64, 64, stem_precision="float32", half=False)), None)
    theirs = source.stages[1][0].match.weight[:, :, 0, 0]
    ours = network.stages[1][0].match.weight[:, :, 0, 0]
    step = theirs.abs().amax(dim=1, keepdim=True) / 127
    assert ((ours - theirs).abs() <= 0.51 * step).all()


def test_a_recovered_model_is_exported_with_the_input_size_that_it_was_served_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like the zoo's model, it has the name of one recipe and was made by another, which serves at 128 pixels."""
    recipe = RECIPES["bireal18-tiny100-large"]
    config = ArchConfig(depth=18, method="bireal", num_classes=2, width=0.125)
    found = [{"index": i, "wnid": f"n{i}", "name": f"colour {i}"} for i in range(2)]
    (tmp_path / "classes.json").write_text(json.dumps(found))
    for i in range(2):
        (tmp_path / "train" / f"n{i}").mkdir(parents=True)
        for j in range(recipe.hold_out_per_class + 4):
            Image.new("RGB", (8, 8), (8 * j, 255 * i, 0)).save(tmp_path / "train" / f"n{i}" / f"{j:02d}.png")
    first, again, zoo = tmp_path / "run" / "best.pt", tmp_path / "again" / "best.pt", tmp_path / "zoo"
    checkpoint.save(first, random_network(config), config, recipe.name, checkpoint.Progress())

    write_provenance(first.parent, recipe)

    def export_as_shipped(path: Path, *more: str) -> Card:
        options = [
            str(path),
            "--out",
            str(zoo),
            "--overwrite",
            "--name",
            "bireal18-tiny100",
            "--classes",
            str(tmp_path),
            *more,
        ]
        monkeypatch.setattr(sys, "argv", ["export", *options])
        assert export.main() == 0
        return Card.load(zoo / "bireal18-tiny100" / "1")

    served = export_as_shipped(first, "--temperature", "2")
    options = [str(zoo / "bireal18-tiny100" / "1"), "--data", str(tmp_path), "--out", str(again)]
    monkeypatch.setattr(sys, "argv", ["recover", *options])
    assert recover.main() == 0
    assert checkpoint.load(again)["recipe"] == recipe.name
    exported = export_as_shipped(again)
    assert (exported.input, exported.training) == (served.input, served.training)
    assert served.input.height == 128
    assert exported.limits == served.limits, "the temperature is in the recovered weights"
    assert "Probabilities are calibrated (temperature 2.000" in served.limits[-1]


@pytest.mark.parametrize(
    "config",
    [
        ArchConfig(depth=18, num_classes=4, width=0.125, **SMALL_STEM),
        ArchConfig(depth=50, num_classes=4, width=0.125, first_1x1_real=False),
        ArchConfig(depth=50, num_classes=4, width=0.125, stem_kernel=5, stem_stride=1),
        ArchConfig(depth=18, method="none", num_classes=4, width=0.125, **SMALL_STEM),
        ArchConfig(depth=50, method="none", num_classes=4, width=0.125, stem_pool=False),
    ],
    ids=str,
)
def test_what_a_card_does_not_state_is_read_from_the_graph(config: ArchConfig) -> None:
    known = ArchConfig(depth=config.depth, method=config.method, num_classes=4, width=config.width)
    assert complete_arch(known, to_onnx(random_network(config), 32, 32)) == config


def test_a_network_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    card = export_to(tmp_path, ArchConfig(depth=18, num_classes=4, width=0.25))
    model = onnx.load(card.path)
    network = random_network(ArchConfig(depth=18, num_classes=4, width=0.25))
    recover.check_same(network, model, card)
    network.stages[1][0].body.bn.bias.data += 0.5
    with pytest.raises(ValueError, match="recovered from binary-test does not compute what the model does"):
        recover.check_same(network, model, card)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """Its recovered network computes what it computes, so nothing later shows that it is not the card's model."""
    card = export_to(tmp_path, ArchConfig(depth=18, num_classes=4, width=0.25))
    model = onnx.load(card.path)
    model.doc_string = "another file"
    onnx.save(model, card.path)
    with pytest.raises(ModelBrokenError, match="sha256"):
        recover.recovered(Namespace(model=card.directory, data=tmp_path, out=tmp_path / "best.pt", twin=None))


def test_a_model_without_a_recipe_keeps_its_preprocessing() -> None:
    card = Card.load(ZOO / "resnet18-tiny100" / "1")
    arch = recover.arch_of(card)
    assert "resize_shorter" not in recover.kept_settings(card, arch), "the recipe has it"
    other = card.model_copy(
        update={
            "training": card.training.model_copy(update={"recipe": "imported"}),
            "input": card.input.model_copy(update={"resize_shorter": 146}),
        }
    )
    kept = recover.kept_settings(other, arch)
    assert (kept["size"], kept["resize_shorter"]) == (128, 146)
    recipe = export.unknown_recipe("imported", arch, None, kept)
    assert (served_shorter(recipe, 128), served_shorter(recipe, 224)) == (146, 256)


@pytest.mark.parametrize(
    ("model", "method", "structure"),
    [
        ("bireal18-tiny100", "binarynet", "res"),
        ("bireal18-tiny100", "bireal", "plain"),
        ("bireal18-tiny100", "xnornet", "bireal"),
        ("resnet18-tiny100", "none", "bireal"),  # the real-valued counterpart with ReLU
    ],
)
def test_networks_of_other_methods_and_structures_are_refused_by_name(model: str, method: str, structure: str) -> None:
    card = Card.load(ZOO / model / "1")
    assert recover.arch_of(card).method == card.network.method
    network = card.network.model_copy(update={"method": method, "structure": structure})
    with pytest.raises(ValueError, match=f"has method {method} and structure {structure}: only Bi-Real nets"):
        recover.arch_of(card.model_copy(update={"network": network}))


def test_packed_signs_that_are_not_there_are_named() -> None:
    get = Weights(to_onnx(random_network(ArchConfig(depth=18, num_classes=4, width=0.125)), 32, 32))
    for name in ("stage9_0_weight", "fc_bias"):
        with pytest.raises(ValueError, match=f"no packed '{name}': only graphs written by models.export"):
            get.signs(name, 8)


def test_statistics_of_a_classifier_are_of_images_that_are_not_held_out(tmp_path: Path) -> None:
    """A class of 30 files, each of one colour: with 25 held out by the recipe, the first five remain."""
    (tmp_path / "classes.json").write_text('[{"index": 0, "wnid": "n0", "name": "a colour"}]')
    (tmp_path / "train" / "n0").mkdir(parents=True)
    for i in range(30):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / "train" / "n0" / f"{i:02d}.png")
    card = Card.load(ZOO / "resnet18-tiny100" / "1")
    cropped = card.model_copy(update={"input": card.input.model_copy(update={"resize_shorter": 256})})
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[10:30, 10:30] = 100
    for i in range(5):
        Image.fromarray(pixels + np.uint8(i)).save(tmp_path / "train" / "n0" / f"{i:02d}.png")
    centre = calibration_images(cropped, tmp_path)
    assert centre[:, :, 8:-8, 8:-8].min() >= 100, "the centre is cut as the service cuts it"
    for i in range(5):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / "train" / "n0" / f"{i:02d}.png")
    pictures = calibration_images(card, tmp_path)
    assert pictures.shape == (5, 3, 128, 128)
    assert sorted(picture.mean().item() for picture in pictures) == [0, 1, 2, 3, 4]
