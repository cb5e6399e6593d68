"""Exports that are wrong in a bias, a scale or a layer are refused, though their outputs correlate."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from models.arch import ArchConfig, BiRealNet, DepthNet, ResNet, build
from models.export import verify as verification
from models.export.convert import to_onnx
from models.export.verify import (
    VerificationError,
    answers_of,
    head_difference,
    outputs_of,
    smooth_images,
    spread_of,
    verify,
)
from models.train.recover import arch_of
from models.train.recover_weights import Weights, fill_bireal, fill_fc
from service.card import Card
from tests.models.test_export import CASES, change, random_network

ZOO = Path(__file__).resolve().parents[2] / "models" / "zoo"
SIZE = 64


@pytest.fixture(scope="module")
def shipped() -> BiRealNet:
    """The shipped Bi-Real-18, with small biases on its shortcuts, which its file holds in the next bias."""
    card = Card.load(ZOO / "bireal18-tiny100" / "1")
    network, get = build(arch_of(card)), Weights(onnx.load(card.path))
    assert isinstance(network, BiRealNet)
    assert network.fc is not None
    fill_bireal(network, get, None)
    fill_fc(network.fc, get)
    torch.manual_seed(0)
    nn.init.normal_(network.stages[3][0].downsample.conv_bn[1].bias, std=0.05)  # type: ignore[index,union-attr]
    return network.eval()


def no_classifier_bias(network: BiRealNet) -> None:
    assert network.fc is not None
    network.fc.bias.zero_()


def half_the_classifier(network: BiRealNet) -> None:
    assert network.fc is not None
    network.fc.weight.mul_(0.5)


def no_batchnorm_bias(network: BiRealNet) -> None:
    network.stages[3][3].body.bn.bias.zero_()  # type: ignore[index,union-attr]


def no_shortcut_bias(network: BiRealNet) -> None:
    network.stages[3][0].downsample.conv_bn[1].bias.zero_()  # type: ignore[index,union-attr]


FAULTS = [no_classifier_bias, half_the_classifier, no_batchnorm_bias, no_shortcut_bias]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("everywhere", [True, False], ids=["in every export", "in the shipped model"])
def test_a_fault_that_leaves_a_high_correlation_is_found(
    shipped: BiRealNet, fault: Callable[[BiRealNet], None], everywhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the exporter is in both exports; one of the rounding or of the storage in the shipped one alone."""
    wrong = copy.deepcopy(shipped)
    with torch.no_grad():
        fault(wrong)
    images = smooth_images(8, SIZE, SIZE)
    expected = answers_of(shipped, images)
    assert np.corrcoef(expected.ravel(), answers_of(wrong, images).ravel())[0, 1] > 0.9
    model = to_onnx(wrong, SIZE, SIZE)
    if everywhere:
        monkeypatch.setattr(verification, "to_onnx", lambda _, *size, **options: to_onnx(wrong, *size, **options))
    with pytest.raises(
        VerificationError, match=r"of their standard deviation|constants of the shipped model|layers of"
    ):
        verify(shipped, model, SIZE, SIZE)


def test_the_shipped_network_passes(shipped: BiRealNet) -> None:
    agreement = verify(shipped, to_onnx(shipped, SIZE, SIZE), SIZE, SIZE)
    assert agreement["layer_error"] < 0.01


@pytest.mark.parametrize("config", [CASES[0], CASES[3]], ids=["packed", "full"])
def test_a_scale_and_an_offset_are_found(config: ArchConfig) -> None:
    """They leave the correlation at 1."""
    network = random_network(config)
    assert isinstance(network, BiRealNet | ResNet)
    model = to_onnx(network, SIZE, SIZE)
    network.register_forward_hook(lambda _module, _inputs, logits: 3.0 * logits + 5.0)  # which no export can know of
    with pytest.raises(VerificationError, match="the exported graph's outputs differ from PyTorch's by"):
        verify(network, model, SIZE, SIZE)


@pytest.mark.parametrize("place", [1, 2], ids=["weight", "bias"])
def test_a_wrong_classifier_of_a_full_precision_model_is_found(place: int) -> None:
    network = random_network(CASES[3])
    assert isinstance(network, ResNet)
    model = to_onnx(network, SIZE, SIZE)
    change(model, "Gemm", place, 0.9)
    with pytest.raises(VerificationError, match="of their standard deviation"):
        verify(network, model, SIZE, SIZE)


@pytest.mark.parametrize("config", CASES, ids=lambda config: f"{config.method}{config.depth}-{config.task}")
def test_a_head_is_compared_on_its_own(config: ArchConfig) -> None:
    network = random_network(config)
    assert isinstance(network, BiRealNet | ResNet | DepthNet)
    if isinstance(network, DepthNet):
        for score in network.scores:
            assert isinstance(score, nn.Conv2d)
            nn.init.normal_(score.weight, std=0.02)
            assert score.bias is not None
            nn.init.constant_(score.bias, 0.1)
    images = smooth_images(1, 64, 96)
    graph = to_onnx(network, 64, 96, stem_precision="float32", pointwise_precision="float32", half=False)
    spread = spread_of(answers_of(network, smooth_images(8, 64, 96)))
    assert head_difference(network, graph, images) < 5e-4 * spread, "float32 noise, within half of the limit"
    bias = "score_bias" if isinstance(network, DepthNet) else "fc_bias"
    for tensor in graph.graph.initializer:
        if tensor.name.rsplit("_", 1)[0] == bias:
            tensor.CopyFrom(numpy_helper.from_array(0.0 * numpy_helper.to_array(tensor), tensor.name))
    assert head_difference(network, graph, images) > 0.01 * spread


@pytest.mark.parametrize("name", ["stages.2.1.body.conv.weight", "stages.0.0.body.bn.running_var", "fc.bias"])
def test_a_value_that_is_not_finite_is_named(name: str) -> None:
    """A 1-bit network hides it: the sign of NaN is +1, and a bias of -infinity makes an ordinary bit."""
    network = random_network(CASES[0])
    assert isinstance(network, BiRealNet)
    model = to_onnx(network, SIZE, SIZE)
    with torch.no_grad():
        network.state_dict()[name].view(-1)[0] = float("nan")
    message = f"the network holds NaN or infinity in {name}: its training diverged"
    with pytest.raises(ValueError, match=message):
        to_onnx(network, SIZE, SIZE)
    with pytest.raises(ValueError, match=message):
        verify(network, model, SIZE, SIZE)


@pytest.mark.parametrize("config", [CASES[0], CASES[3]], ids=["packed", "full"])
def test_weights_beyond_float16_are_stored_in_float32(config: ArchConfig) -> None:
    network = random_network(config)
    assert isinstance(network, BiRealNet | ResNet)
    assert network.fc is not None
    with torch.no_grad():
        network.fc.weight[0] = 1e5
    model = to_onnx(network, SIZE, SIZE)
    (stored,) = (t for t in model.graph.initializer if t.name.startswith("fc_weight"))
    assert stored.data_type == TensorProto.FLOAT
    assert config.binary or any(t.data_type == TensorProto.FLOAT16 for t in model.graph.initializer)
    answers = outputs_of(model, smooth_images(2, SIZE, SIZE))
    assert np.isfinite(answers).all() and np.abs(answers).max() > 1e3
