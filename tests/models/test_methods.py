"""Every binarisation method and structure: trains, exports, and is served bit-packed and as reference alike."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models.binarize
from models.arch import SMALL_STEM, ArchConfig, BiRealNet, ResNet, build
from models.binarize import get_method, method_types
from models.binarize.abcnet import BasesActivation, BasesConv2d, BasesLayer
from models.binarize.base import BinaryActivation, BinaryConv2d, Phase, set_phase
from models.binarize.binarynet import BinaryNetConv2d
from models.binarize.bireal import ApproxSign, OriginalConv2d
from models.binarize.functional import sign
from models.binarize.xnornet import XnorConv2d, XnorLayer, sign_threshold
from models.export.convert import to_onnx
from models.export.verify import smooth_images, verify
from models.train import checkpoint
from models.train.initialise import initialise_from
from service.backends import backend_for
from service.backends.audit import Audit
from tests.models.test_export import export_to, random_network

TINY = {"depth": 18, "num_classes": 4, "width": 0.25, **SMALL_STEM}
PLAIN = ArchConfig(method="bireal", structure="plain", **TINY)
BINARY = [
    PLAIN,
    ArchConfig(method="bireal", structure="res", **TINY),
    ArchConfig(method="bireal", options={"gradient": "approxsign3", "update": "original"}, **TINY),
    ArchConfig(method="binarynet", structure="res", **TINY),
    ArchConfig(method="xnornet", structure="res", **TINY),
    ArchConfig(method="xnornet", options={"k_map": False}, **TINY),
    ArchConfig(method="abcnet", structure="res", options={"weight_bases": 3, "activation_bases": 2}, **TINY),
]
DEEP = [
    ArchConfig(depth=50, method="binarynet", structure="res", num_classes=4, width=0.25),
    ArchConfig(depth=50, method="xnornet", structure="plain", num_classes=4, width=0.25),
    ArchConfig(depth=50, method="bireal", first_1x1_real=False, num_classes=4, width=0.25),
    ArchConfig(depth=34, method="abcnet", num_classes=4, width=0.25, stem_kernel=5),
]
REAL = [
    ArchConfig(method="none", activation="relu", structure="bireal", **TINY),
    ArchConfig(method="none", activation="clip", structure="res", **TINY),
    ArchConfig(method="none", activation="clip", structure="plain", **TINY),
    ArchConfig(depth=50, method="none", activation="relu", num_classes=4, width=0.25),
    ArchConfig(method="none", **TINY),
]


def label(config: ArchConfig) -> str:
    options = "-".join(str(v) for v in config.options.values())
    return "-".join(filter(None, [f"{config.method}{config.depth}", config.activation, config.structure, options]))


def network_for(config: ArchConfig) -> nn.Module:
    """Random weights, and statistics after which a structure without shortcuts or BatchNorm still has signal."""
    network = random_network(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and config.structure == "plain":
            nn.init.normal_(module.weight, 0.0, 1.0)  # of either sign: XNOR-Net's thresholds depend on it
        if isinstance(module, BasesActivation):
            nn.init.normal_(module.scale, 0.3, 0.1)
    return network


@pytest.mark.parametrize("config", [*BINARY, *DEEP, *REAL], ids=label)
def test_graph_computes_what_pytorch_does(config: ArchConfig) -> None:
    network = network_for(config)
    size = 32 if config.stem_stride == 1 else 64
    agreement = verify(network, to_onnx(network, size, size), size, size)  # type: ignore[arg-type]
    assert agreement["correlation"] > 0.99


@pytest.mark.parametrize("config", [*BINARY, *DEEP], ids=label)
def test_bit_packed_layers_equal_the_reference_exactly(config: ArchConfig) -> None:
    size = 32 if config.stem_stride == 1 else 64
    model = to_onnx(network_for(config), size, size)  # type: ignore[arg-type]
    layers = Audit(model, label(config)).compare(smooth_images(2, size, size))
    assert sum(layer.sums for layer in layers) > 10_000
    assert [layer for layer in layers if not layer.exact] == []
    convolutions = sum(1 for layer in layers if layer.op == "BConv")
    network = build(config)
    wanted = sum(m.bases for m in network.modules() if isinstance(m, BinaryConv2d))
    if config.method == "abcnet":
        wanted *= next(m.bases for m in network.modules() if isinstance(m, BinaryActivation))
    assert convolutions == wanted


NEW_METHOD = """
from dataclasses import dataclass
from typing import ClassVar
from models.binarize.base import Method
from models.binarize.bireal import ApproxSign, MagnitudeAwareConv2d
from models.binarize.layer import SignConvBn

class HalfScaleConv2d(MagnitudeAwareConv2d):
    def magnitude(self):
        return super().magnitude() / 2

    def binary_weight(self):
        return super().binary_weight() / 2

@dataclass(frozen=True)
class HalfScale(Method):
    name: ClassVar[str] = "halfscale"

    def layer(self, in_channels, out_channels, kernel, stride):
        return SignConvBn(ApproxSign(), HalfScaleConv2d(in_channels, out_channels, kernel, stride))

METHOD = HalfScale
"""


def test_adding_a_method_is_adding_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "halfscale.py").write_text(NEW_METHOD)
    monkeypatch.setattr(models.binarize, "__path__", [*models.binarize.__path__, str(tmp_path)])
    method_types.cache_clear()
    try:
        config = ArchConfig(method="halfscale", structure="res", **TINY)
        network = network_for(config)
        model = to_onnx(network, 32, 32)  # type: ignore[arg-type]
        assert verify(network, model, 32, 32)["correlation"] > 0.99  # type: ignore[arg-type]
        assert all(layer.exact for layer in Audit(model, "halfscale").compare(smooth_images(1, 32, 32)))
    finally:
        monkeypatch.undo()
        method_types.cache_clear()


def test_a_checkpoint_keeps_options_and_structure(tmp_path: Path) -> None:
    config = ArchConfig(method="abcnet", structure="res", options={"weight_bases": 2, "activation_bases": 1}, **TINY)
    network = random_network(config)
    checkpoint.save(tmp_path / "abc.pt", network, config, "small", checkpoint.Progress())
    again = checkpoint.load_network(tmp_path / "abc.pt")
    assert again.config == config
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(again(x), network(x))


@pytest.mark.parametrize("config", BINARY, ids=label)
def test_both_variants_serve_alike(config: ArchConfig, tmp_path: Path) -> None:
    card = export_to(tmp_path, config, size=32)
    assert (card.network.method, card.network.structure) == (config.method, config.structure)
    images = smooth_images(16, 32, 32, seed=5)
    binary, reference = (
        backend_for(variant).load(card, variant, intra_op_threads=1).run(images) for variant in card.variants
    )
    assert np.corrcoef(binary.ravel(), reference.ravel())[0, 1] > 0.98
    assert (binary.argmax(1) == reference.argmax(1)).mean() >= 0.8


@pytest.mark.parametrize("config", [c for c in [*BINARY, REAL[0], REAL[2]] if c != PLAIN], ids=label)
def test_a_tiny_network_overfits_64_images(config: ArchConfig) -> None:
    """Not the plain 1-bit network: sixteen signs in a row lose the gradient, which is the paper's point."""
    torch.manual_seed(1)
    network = build(config)
    set_phase(network, Phase.BINARY)
    images, labels = torch.randn(64, 3, 8, 8), torch.arange(64) % 4
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for step in range(40):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 40)
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    accuracy = (network(images).argmax(1) == labels).float().mean().item()
    assert accuracy >= 0.9, "chance is 0.25"


def test_structures_have_the_shortcuts_of_the_paper() -> None:
    counts = {}
    for structure in ("bireal", "res", "plain"):
        network = build(ArchConfig(structure=structure, num_classes=4, width=0.25))
        assert sum(isinstance(m, BinaryConv2d) for m in network.modules()) == 16
        counts[structure] = sum(name.endswith("downsample") for name, _ in network.named_modules())
        if structure != "bireal":
            block, x = network.eval().stages[0][0], torch.randn(1, 16, 8, 8)  # type: ignore[union-attr,index]  # a ModuleList
            y = block.layers[1](block.layers[0](x))
            assert torch.equal(block(x), y + x if structure == "res" else y)
    assert counts == {"bireal": 3, "res": 3, "plain": 0}


def test_res_block_is_relu_only_pre_activation() -> None:
    network = build(ArchConfig(method="none", activation="relu", structure="res", num_classes=4, width=0.25)).eval()
    block = network.stages[0][0]  # type: ignore[union-attr,index]  # a ModuleList
    x = torch.randn(1, 16, 8, 8)
    first, second = block.layers
    y = first.bn(first.conv(F.relu(x)))
    assert torch.allclose(block(x), second.bn(second.conv(F.relu(y))) + x, atol=1e-6)


def test_small_stem_keeps_the_resolution() -> None:
    for method in ("bireal", "none"):
        network = build(ArchConfig(method=method, **TINY)).eval()
        assert isinstance(network, BiRealNet | ResNet)
        maps = network.features(torch.randn(1, 3, 32, 32))
        assert [m.shape[-1] for m in maps] == [32, 16, 8, 4]
    with pytest.raises(ValueError, match="needs a stem with stride 2"):
        ArchConfig(task="depth", max_disparity_px=90.0, **(TINY | {"depth": 50}))


def test_old_checkpoints_describe_the_same_networks() -> None:
    """Fields that came later have defaults, and tensors keep their names."""
    old = {"depth": 18, "method": "bireal", "task": "classify", "num_classes": 100, "width": 1.0, "max_disparity_px": 0}
    with torch.device("meta"):
        names = build(ArchConfig(**old)).state_dict()  # type: ignore[arg-type]
        full = build(ArchConfig(**(old | {"method": "none"}))).state_dict()  # type: ignore[arg-type]
    assert len(names) == len(full) == 122
    assert names["stages.1.0.downsample.conv_bn.0.weight"].shape == (128, 64, 1, 1)
    assert {"stages.3.3.body.conv.weight", "stages.3.3.body.bn.running_var", "stem.1.bias", "fc.weight"} <= set(names)
    assert {"stages.1.0.convs.1.0.weight", "stages.1.0.downsample.1.bias", "stem.0.weight"} <= set(full)


@pytest.mark.parametrize(("structure", "depth"), [("res", 18), ("res", 50), ("plain", 18)])
def test_other_structures_start_from_real_networks(structure: str, depth: int, tmp_path: Path) -> None:
    full = ArchConfig(depth=depth, method="none", num_classes=4, width=0.25)
    checkpoint.save(tmp_path / "full.pt", build(full), full, "small", checkpoint.Progress())
    real = ArchConfig(depth=depth, method="none", num_classes=4, width=0.25, structure=structure, activation="clip")
    assert initialise_from(build(real), tmp_path / "full.pt") == []
    checkpoint.save(tmp_path / "real.pt", build(real), real, "small", checkpoint.Progress())
    binary = ArchConfig(depth=depth, num_classes=4, width=0.25, structure=structure)
    assert initialise_from(build(binary), tmp_path / "real.pt") == []


# --- gradients and weights --------------------------------------------------------------------------------------------


def test_third_order_gradient_is_equation_7() -> None:
    """Held against finite differences of Eq. 6."""

    def approximation(a: Tensor) -> Tensor:
        inner = torch.where(a < 0, (a + 1) ** 3 - 1, (a - 1) ** 3 + 1)
        return torch.where(a < -1, -torch.ones_like(a), torch.where(a < 1, inner, torch.ones_like(a)))

    a = torch.linspace(-1.6, 1.6, 64, dtype=torch.float64)
    finite = (approximation(a + 1e-6) - approximation(a - 1e-6)) / 2e-6
    x = a.clone().requires_grad_()
    signs = ApproxSign("approxsign3")(x)
    signs.sum().backward()
    assert torch.equal(signs, sign(a))
    assert x.grad is not None
    assert torch.allclose(x.grad, finite, atol=1e-4)


def test_clip_gradient_passes_inside_one() -> None:
    x = torch.tensor([-1.5, -0.9, 0.0, 0.9, 1.5], requires_grad=True)
    ApproxSign("clip")(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_original_update_has_no_scale() -> None:
    conv = OriginalConv2d(3, 2, 3, 1)
    assert torch.equal(conv.binary_weight(), sign(conv.weight))
    conv.binary_weight().sum().backward()
    assert torch.equal(conv.weight.grad, torch.ones_like(conv.weight))


def test_binarynet_keeps_its_weights_inside_one() -> None:
    conv = BinaryNetConv2d(1, 1, 1, 1)
    conv.weight.data.fill_(3.0)
    x = torch.ones(1, 1, 2, 2)
    assert torch.equal(conv.eval()(x), x)
    assert conv.weight.item() == 3.0, "inference changes nothing"
    conv.train()(x).sum().backward()
    assert conv.weight.item() == 1.0
    assert conv.weight.grad is not None
    assert conv.weight.grad.item() == 4.0, "at the edge the gradient passes"


def test_xnor_weights_have_the_derivative_that_their_docstring_states() -> None:
    torch.manual_seed(0)
    conv = XnorConv2d(2, 3, 3, 1)
    with torch.no_grad():
        conv.weight.mul_(12.0)  # some beyond 1
    gradient = torch.randn_like(conv.weight)
    conv.binary_weight().backward(gradient)
    weight = conv.weight.detach()
    count, signs = weight[0].numel(), torch.where(weight < 0, -1.0, 1.0)
    own = weight.abs().mean(dim=(1, 2, 3), keepdim=True) * gradient * (weight.abs() <= 1)
    shared = signs / count * (gradient * signs).sum(dim=(1, 2, 3), keepdim=True)
    assert (weight.abs() > 1).any()
    assert conv.weight.grad is not None
    assert torch.allclose(conv.weight.grad, own + shared, atol=1e-5)


def test_xnor_layer_is_its_equation() -> None:
    torch.manual_seed(0)
    layer = XnorLayer(5, 3, 3, 2, k_map=True).eval()
    x = torch.randn(2, 5, 7, 7)
    normal = layer.norm(x)
    alpha = layer.conv.weight.abs().mean(dim=(1, 2, 3))
    sums = F.conv2d(sign(normal), sign(layer.conv.weight), stride=2, padding=1)
    box = torch.full((1, 1, 3, 3), 1 / 9)
    k = F.conv2d(normal.abs().mean(1, keepdim=True), box, stride=2, padding=1)
    assert torch.allclose(layer(x), sums * alpha[None, :, None, None] * k, atol=1e-5)


def test_signs_of_a_batchnorm_by_threshold() -> None:
    rng = np.random.default_rng(0)
    scale = np.array([2.0, -0.5, 0.0, 0.0, -3.0])
    bias = np.array([0.5, 0.25, -1.0, 1.0, 0.0])
    threshold, flipped = sign_threshold(scale, bias)
    x = rng.normal(size=(1000, 5)).astype(np.float32)
    x[:2] = [[-0.25, 0.5, 0, 0, 0], [0.25, 0.5, 1, 1, -0.0]]  # where BatchNorm gives exactly zero
    by_threshold = np.where(x < threshold, -1, 1) * np.where(flipped, -1, 1)
    assert np.array_equal(by_threshold, np.where(scale * x.astype(np.float64) + bias < 0, -1, 1))


@pytest.mark.parametrize(("count", "u"), [(1, [0.0]), (2, [-1.0, 1.0]), (3, [-1.0, 0.0, 1.0])])
def test_abc_weight_bases_are_spread_over_a_deviation(count: int, u: list[float]) -> None:
    """B_i = sign(W - mean + u_i std) of every output channel, with u_i from -1 to 1."""
    conv = BasesConv2d(4, 3, 3, 1, bases=count)
    with torch.no_grad():
        conv.weight.add_(torch.tensor([0.05, 0.0, -0.1])[:, None, None, None])
    bases = sign(conv.shifted()).detach().numpy()
    for out, weight in enumerate(conv.weight.detach().numpy()):
        for i, shift in enumerate(u):
            expected = np.where(weight - weight.mean() + shift * weight.std() < 0, -1.0, 1.0)
            assert np.array_equal(bases[i, out], expected)


def test_abc_gradients_are_those_of_their_docstrings() -> None:
    torch.manual_seed(0)
    activation = BasesActivation(2)
    nn.init.normal_(activation.scale, 1.0, 0.5)
    x, gradient = torch.randn(2, 3, 5, 5, requires_grad=True), torch.randn(2, 3, 5, 5)
    activation(x).backward(gradient)
    shifted = x.detach()[None] + activation.shift.detach().view(2, 1, 1, 1, 1)
    passed = gradient * ((shifted >= 0) & (shifted <= 1)) * activation.scale.detach().view(2, 1, 1, 1, 1)
    assert x.grad is not None
    assert torch.allclose(x.grad, passed.sum(0), atol=1e-6)
    assert activation.shift.grad is not None
    assert torch.allclose(activation.shift.grad, passed.sum(dim=(1, 2, 3, 4)), atol=1e-5)
    assert activation.scale.grad is not None
    assert torch.allclose(activation.scale.grad, (gradient * sign(shifted - 0.5)).sum(dim=(1, 2, 3, 4)), atol=1e-5)
    conv = BasesConv2d(4, 3, 3, 1, bases=3)
    with torch.no_grad():
        conv.weight.mul_(8.0)  # some beyond 1
    shifts, gradient = conv.shifted().detach(), torch.randn_like(conv.weight)
    alpha = conv.coefficients(sign(shifts)).T[..., None, None, None]
    conv.binary_weight().backward(gradient)
    inside = shifts.abs() <= 1
    assert not inside.all()
    assert conv.weight.grad is not None
    assert torch.allclose(conv.weight.grad, gradient * (alpha * inside).sum(0), atol=1e-6)


def test_abc_coefficients_are_the_least_squares() -> None:
    torch.manual_seed(0)
    conv = BasesConv2d(4, 3, 3, 1, bases=3)
    bases = sign(conv.shifted())
    ours = conv.coefficients(bases)
    for out in range(3):
        matrix = bases[:, out].flatten(1).T.double().detach()
        expected = torch.linalg.lstsq(matrix, conv.weight[out].flatten().double().detach()[:, None]).solution[:, 0]
        assert torch.allclose(ours[out].double(), expected, atol=1e-4)
    errors = []
    for count in (1, 2, 3, 5):
        conv.bases = count
        errors.append((conv.weight - conv.binary_weight()).square().sum().item())
    assert errors == sorted(errors, reverse=True), "more bases, a closer fit"


def test_abc_layer_is_a_sum_over_pairs_of_bases() -> None:
    torch.manual_seed(0)
    layer = BasesLayer(6, 4, 3, 1, weight_bases=2, activation_bases=3).eval()
    x = torch.randn(1, 6, 5, 5)
    bases = sign(layer.conv.shifted())
    alpha = layer.conv.coefficients(bases)
    total = torch.zeros(1, 4, 5, 5)
    for i in range(2):
        for j in range(3):
            binary = sign((x + layer.sign.shift[j]).clamp(0, 1) - 0.5)
            sums = F.conv2d(binary, bases[i], padding=1)
            total = total + alpha[:, i][None, :, None, None] * layer.sign.scale[j] * sums
    assert torch.allclose(layer(x), layer.bn(total), atol=1e-4)


def test_abc_shifts_and_scales_are_trained() -> None:
    layer = BasesLayer(3, 2, 3, 1, weight_bases=2, activation_bases=2)
    layer(torch.randn(4, 3, 6, 6)).square().mean().backward()
    for parameter in (layer.sign.shift, layer.sign.scale, layer.conv.weight):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("method", ["bireal", "binarynet", "xnornet", "abcnet"])
def test_every_method_is_real_valued_in_the_real_phases(method: str) -> None:
    network = build(ArchConfig(method=method, **TINY)).eval()
    x = torch.randn(2, 3, 16, 16)
    set_phase(network, Phase.CLIP)
    before = network(x)
    for module in network.modules():
        if isinstance(module, BinaryConv2d):
            module.weight.data *= 1.001  # no sign changes: a 1-bit network would not notice all of it
    assert not torch.equal(network(x), before)
    set_phase(network, Phase.BINARY)
    assert all(m.weights_are_binary for m in network.modules() if isinstance(m, BinaryConv2d))


def test_options_are_checked() -> None:
    assert sorted(method_types()) == ["abcnet", "binarynet", "bireal", "xnornet"]
    with pytest.raises(ValueError, match="bireal has no option 'k_map': it has gradient, update"):
        get_method("bireal", {"k_map": True})
    with pytest.raises(ValueError, match="unknown gradient 'tanh'"):
        get_method("bireal", {"gradient": "tanh"})
    with pytest.raises(ValueError, match="unknown weight update 'none'"):
        get_method("bireal", {"update": "none"})
    with pytest.raises(ValueError, match="weight_bases must be at least 1"):
        get_method("abcnet", {"weight_bases": 0})
    with pytest.raises(ValueError, match="structure 'dense' is not one of"):
        ArchConfig(structure="dense")
    with pytest.raises(ValueError, match="needs method 'none'"):
        ArchConfig(activation="clip")
    with pytest.raises(ValueError, match="stem_kernel 4 is not an odd number"):
        ArchConfig(stem_kernel=4)
