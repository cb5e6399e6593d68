"""Imported checkpoints: randomly drawn state dicts of the official keys against an independent forward pass."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.arch import build
from models.export.verify import smooth_images
from models.import_official.__main__ import main
from models.import_official.classes import generic_classes, read_class_file
from models.import_official.convert import MismatchError, to_network
from models.train.initialise import initialise_from
from models.train.recipes import get_recipe
from service.backends import backend_for
from service.backends.audit import Audit
from service.card import Card
from service.registry import Registry
from service.settings import Settings

State = dict[str, Tensor]
STAGES = {18: (4, 4, 4, 4), 34: (6, 8, 12, 6), 50: (3, 4, 6, 3)}  # blocks as the official code counts them
WIDTHS = (64, 128, 256, 512)


class Draw:
    """Draws a state dict tensor by tensor, scaled so that activations stay of order one."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.state: State = {}

    def normal(self, name: str, *shape: int, std: float = 0.02) -> None:
        drawn = torch.randn(shape, generator=self.generator)
        drawn[drawn == 0] = 1.0  # a few in ten million; sign(0) is 0 in the official code and +1 here
        self.state[name] = drawn * std

    def batchnorm(self, name: str, channels: int) -> None:
        uniform = torch.rand(2, channels, generator=self.generator)
        self.state[f"{name}.weight"] = 0.2 + 0.4 * uniform[0]
        self.normal(f"{name}.bias", channels, std=0.2)
        self.normal(f"{name}.running_mean", channels, std=0.3)
        self.state[f"{name}.running_var"] = 0.5 + 1.5 * uniform[1]
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def stem_and_classifier(self, features: int, classes: int = 1000) -> None:
        self.normal("conv1.weight", 64, 3, 7, 7, std=0.1)
        self.batchnorm("bn1", 64)
        self.normal("fc.weight", classes, features, std=0.03)
        self.normal("fc.bias", classes, std=0.1)


def official_basic(depth: int) -> State:
    draw = Draw(depth)
    draw.stem_and_classifier(512)
    channels = 64
    for stage, (blocks, width) in enumerate(zip(STAGES[depth], WIDTHS, strict=True), 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            draw.normal(f"{name}.binary_conv.weights", width * channels * 9, 1)
            draw.batchnorm(f"{name}.bn1", width)
            if channels != width:
                draw.normal(f"{name}.downsample.1.weight", width, channels, 1, 1, std=0.05)
                draw.batchnorm(f"{name}.downsample.2", width)
            channels = width
    return draw.state


def official_bottleneck() -> State:
    draw = Draw(50)
    draw.stem_and_classifier(2048)
    channels, number = 64, 0
    for blocks, width in zip(STAGES[50], WIDTHS, strict=True):
        for block in range(blocks):
            name = f"layers.{number}"
            draw.normal(f"{name}.conv1.weight", width, channels, 1, 1, std=0.1)
            draw.normal(f"{name}.conv2.weight", width, width, 3, 3)
            draw.normal(f"{name}.conv3.weight", 4 * width, width, 1, 1)
            for index, norm in enumerate((width, width, 4 * width), 1):
                draw.batchnorm(f"{name}.bn{index}", norm)
            if block == 0:
                draw.normal(f"{name}.down_conv1x1.weight", width, channels // 4, 1, 1, std=0.1)
                draw.normal(f"{name}.downsample.1.weight", 4 * width, channels, 1, 1, std=0.05)
                draw.batchnorm(f"{name}.downsample.2", 4 * width)
            channels, number = 4 * width, number + 1
    return draw.state


RESNET_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def torchvision_resnet(depth: int, classes: int) -> State:
    """Names and shapes of torchvision's, which timm's resnet18, 34 and 50 share."""
    draw = Draw(depth + 1)
    expansion = 4 if depth == 50 else 1
    draw.stem_and_classifier(512 * expansion, classes)
    channels = 64
    for stage, (blocks, width) in enumerate(zip(RESNET_STAGES[depth], WIDTHS, strict=True), 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            shapes = [(width, channels, 3), (width, width, 3)]
            if depth == 50:
                shapes = [(width, channels, 1), (width, width, 3), (4 * width, width, 1)]
            for index, (out, inputs, kernel) in enumerate(shapes, 1):
                draw.normal(f"{name}.conv{index}.weight", out, inputs, kernel, kernel, std=(inputs * kernel**2) ** -0.5)
                draw.batchnorm(f"{name}.bn{index}", out)
            if block == 0 and (stage > 1 or depth == 50):
                draw.normal(f"{name}.downsample.0.weight", width * expansion, channels, 1, 1, std=0.05)
                draw.batchnorm(f"{name}.downsample.1", width * expansion)
            channels = width * expansion
    return draw.state


def norm(state: State, name: str, x: Tensor) -> Tensor:
    mean, variance, weight, bias = (
        state[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(x, mean, variance, weight, bias)


def binary_conv(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    scale = weight.abs().mean(dim=(1, 2, 3), keepdim=True)
    return F.conv2d(torch.sign(x), scale * torch.sign(weight), stride=stride, padding=weight.shape[-1] // 2)


def shortcut(state: State, name: str, x: Tensor, stride: int, first: int) -> Tensor:
    if f"{name}.downsample.{first}.weight" not in state:
        return x
    if first == 1 and stride == 2:  # the Bi-Real code pools, torchvision strides
        x = F.avg_pool2d(x, 2)
        stride = 1
    x = F.conv2d(x, state[f"{name}.downsample.{first}.weight"], stride=stride)
    return norm(state, f"{name}.downsample.{first + 1}", x)


def stem(state: State, x: Tensor) -> Tensor:
    return norm(state, "bn1", F.conv2d(x, state["conv1.weight"], stride=2, padding=3))


def classify(state: State, x: Tensor) -> Tensor:
    return F.linear(x.mean(dim=(2, 3)), state["fc.weight"], state["fc.bias"])


def forward_basic(state: State, depth: int, x: Tensor) -> Tensor:
    x = F.max_pool2d(stem(state, x), 3, 2, 1)
    for stage, (blocks, width) in enumerate(zip(STAGES[depth], WIDTHS, strict=True), 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            weight = state[f"{name}.binary_conv.weights"].view(width, x.shape[1], 3, 3)
            x = norm(state, f"{name}.bn1", binary_conv(x, weight, stride)) + shortcut(state, name, x, stride, 1)
    return classify(state, x)


def forward_bottleneck(state: State, x: Tensor) -> Tensor:
    x1 = x2 = F.max_pool2d(stem(state, x), 3, 2, 1)
    number = 0
    for stage, blocks in enumerate(STAGES[50]):
        for block in range(blocks):
            name = f"layers.{number}"
            stride = 2 if stage and block == 0 else 1
            weights = [state[f"{name}.conv{i}.weight"] for i in (1, 2, 3)]
            if number == 0:
                leaky = torch.where(x2.abs() > 1, 0.1 * x2 + 0.9 * x2.sign(), x2)
                o1 = norm(state, f"{name}.bn1", F.conv2d(leaky, weights[0]))
            else:
                matched = F.conv2d(x1, state[f"{name}.down_conv1x1.weight"]) if block == 0 else x1
                o1 = norm(state, f"{name}.bn1", binary_conv(x2, weights[0])) + matched
            kept = F.avg_pool2d(o1, 2) if stride == 2 else o1
            o2 = norm(state, f"{name}.bn2", binary_conv(o1, weights[1], stride)) + kept
            o3 = norm(state, f"{name}.bn3", binary_conv(o2, weights[2])) + shortcut(state, name, x2, stride, 1)
            x1, x2, number = o2, o3, number + 1
    return classify(state, x2)


def forward_resnet(state: State, depth: int, x: Tensor) -> Tensor:
    """The stride of a bottleneck is at its 3x3, as in torchvision, not at its first 1x1."""
    x = F.max_pool2d(F.relu(stem(state, x)), 3, 2, 1)
    strided = 2 if depth == 50 else 1
    for stage, blocks in enumerate(RESNET_STAGES[depth], 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = x
            for index in range(1, 4 if depth == 50 else 3):
                weight = state[f"{name}.conv{index}.weight"]
                y = F.conv2d(
                    F.relu(y) if index > 1 else y,
                    weight,
                    None,
                    stride if index == strided else 1,
                    weight.shape[-1] // 2,
                )
                y = norm(state, f"{name}.bn{index}", y)
            x = F.relu(y + shortcut(state, name, x, stride, 0))
    return classify(state, x)


def parameters(state: State) -> int:
    return sum(v.numel() for k, v in state.items() if "running_" not in k and "num_batches" not in k)


@pytest.fixture(scope="module")
def bireal18() -> State:
    return official_basic(18)


@pytest.mark.parametrize(("depth", "keys", "count"), [(18, 122, 11_689_512), (34, 218, 21_797_672)])
def test_basic_networks_compute_what_the_official_code_does(depth: int, keys: int, count: int) -> None:
    state = official_basic(depth)
    assert (len(state), parameters(state)) == (keys, count)
    imported = to_network(state, depth)
    assert imported.network.config.binary
    check_parity(imported.network, lambda x: forward_basic(doubled(state), depth, x))


def test_bottlenecks_compute_what_the_official_code_does() -> None:
    state = official_bottleneck()
    assert (len(state), parameters(state)) == (324, 25_730_088)
    check_parity(to_network(state, 50).network, lambda x: forward_bottleneck(doubled(state), x))


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_torchvision_weights_become_a_full_precision_network(depth: int) -> None:
    state = torchvision_resnet(depth, classes=37)
    imported = to_network(state, depth)
    assert not imported.network.config.binary
    assert imported.network.config.num_classes == 37
    check_parity(imported.network, lambda x: forward_resnet(doubled(state), depth, x))


def doubled(state: State) -> State:
    return {k: v.double() if v.is_floating_point() else v for k, v in state.items()}


def check_parity(network: torch.nn.Module, expected) -> None:  # type: ignore[no-untyped-def]
    """In float64, where no value comes within rounding of zero and signs cannot differ."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(network.double()(x), expected(x), rtol=1e-6, atol=1e-6)


def test_an_official_checkpoint_is_served(bireal18: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model_best.pth.tar"
    torch.save({"epoch": 255, "state_dict": {f"module.{k}": v for k, v in bireal18.items()}}, path)
    names = tmp_path / "classes.txt"
    names.write_text("\n".join(f"n{i:08d} thing {i}, synonym" for i in range(1000)))
    code = main([str(path), "--depth", "18", "--out", str(tmp_path / "zoo"), "--classes", str(names)])
    assert code == 0
    summary = json.loads(capsys.readouterr().out)
    card = Card.load(Path(summary["folder"]))
    card.verify_file()
    assert (card.name, card.full, card.input.height, card.input.resize_shorter) == (
        "bireal18-imported",
        "resnet18-imported",
        224,
        256,
    )
    assert (card.classes[3].wnid, card.classes[3].name) == ("n00000003", "thing 3")
    assert card.weights.binary_params == 10_985_472
    images = smooth_images(2, 224, 224)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).double()
    mean, std = torch.tensor(card.input.mean) * 255, torch.tensor(card.input.std) * 255
    with torch.no_grad():
        expected = forward_basic(doubled(bireal18), 18, (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)).numpy()
    for variant in ("binary", "reference"):
        logits = backend_for(variant).load(card, variant, intra_op_threads=1).run(images)
        for row in range(2):
            assert np.corrcoef(logits[row], expected[row])[0, 1] > 0.97, variant
    assert all(layer.exact for layer in Audit.of_card(card).compare(images[:1]))
    registry = Registry(Settings(model_dir=tmp_path / "zoo"))
    registry.load()
    assert registry.broken() == {}
    assert registry.resolve("classify", "bireal18-imported", "binary").card.name == "bireal18-imported"
    registry.close()


def test_official_bottlenecks_and_their_twin_are_served_from_one_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both checkpoints as `DataParallel` saves them; the variant `full` of the 1-bit network is the imported ResNet."""
    zoo = tmp_path / "zoo"
    for name, state in (("bireal50", official_bottleneck()), ("resnet50", torchvision_resnet(50, 1000))):
        path = tmp_path / f"{name}.pth"
        torch.save({f"module.{k}": v for k, v in state.items()}, path)
        start = ["--checkpoint-out", str(tmp_path / f"{name}.start.pt")]
        assert main([str(path), "--depth", "50", "--out", str(zoo), "--size", "32", *start]) == 0
        capsys.readouterr()
    card = Card.load(zoo / "bireal50-imported" / "1")
    images = smooth_images(1, 32, 32)
    for variant in card.variants:
        assert backend_for(variant).load(card, variant, intra_op_threads=1).run(images).shape == (1, 1000)
    assert all(layer.exact for layer in Audit.of_card(card).compare(images))
    # the ReLU network that the paper's training starts from (Sec. 4.1)
    network = build(replace(get_recipe("paper-bireal50-imagenet").arch, num_classes=1000))
    assert all("match" in name for name in initialise_from(network, tmp_path / "resnet50.start.pt"))
    assert initialise_from(network, tmp_path / "bireal50.start.pt") == []
    registry = Registry(Settings(model_dir=zoo))
    registry.load()
    assert registry.broken() == {}
    assert registry.resolve("classify", "bireal50-imported", "full").card.name == "resnet50-imported"
    registry.close()


def test_a_partial_checkpoint_is_told_what_it_lacks(bireal18: State) -> None:
    state = dict(bireal18)
    del state["layer2.0.bn1.weight"], state["fc.bias"]
    state["ema.decay"] = torch.tensor(0.9)
    state["conv1.weight"] = torch.zeros(64, 3, 5, 5)
    with pytest.raises(MismatchError) as caught:
        to_network(state, 18)
    assert sorted(caught.value.missing) == ["fc.bias", "layer2.0.bn1.weight"]
    assert caught.value.unexpected == ["ema.decay"]
    message = str(caught.value)
    assert "2 missing: layer2.0.bn1.weight, fc.bias" in message
    assert "1 unexpected: ema.decay" in message
    assert "conv1.weight [64, 3, 5, 5], expected [64, 3, 7, 7]" in message


def test_a_wrong_depth_is_told(bireal18: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = {name: value for name, value in bireal18.items() if name != "layer1.0.binary_conv.weights"}
    with pytest.raises(
        MismatchError, match=r"does not match official Bi-Real .* with 34 layers: 81 missing: .* and 61 more"
    ):
        to_network(none, 34)
    with pytest.raises(ValueError, match="has 18, 34 layers, not 50: check --depth"):
        to_network(none, 50)
    path = tmp_path / "wrong.pth"
    torch.save({"weight": torch.zeros(1)}, path)
    assert main([str(path), "--depth", "18", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: a state dict with names such as weight matches no known network")


def test_a_checkpoint_of_another_depth_is_told_which(bireal18: State) -> None:
    """34 and 50 layers of a ResNet have as many blocks, and differ in their convolutions."""
    cases = [
        (official_basic(34), 18, r"official Bi-Real \(basic blocks\) with 18 layers", 34),
        (bireal18, 34, r"official Bi-Real \(basic blocks\) with 34 layers", 18),
        (bireal18, 50, "which has 18, 34 layers, not 50", 18),
        (official_bottleneck(), 18, "which has 50 layers, not 18", 50),
        (torchvision_resnet(34, 10), 50, "torchvision ResNet with 50 layers", 34),
        (torchvision_resnet(50, 10), 34, "torchvision ResNet with 34 layers", 50),
        (torchvision_resnet(18, 10), 101, "which has 18, 34, 50, 152 layers, not 101", 18),
    ]
    for state, asked, what, depth in cases:
        with pytest.raises(
            ValueError, match=rf"{what}: it looks like a {depth}-layer checkpoint: try --depth {depth}$"
        ) as refused:
            to_network(state, asked)
        if isinstance(refused.value, MismatchError):
            assert refused.value.missing or refused.value.unexpected


def test_counters_may_be_missing_and_values_must_be_finite(bireal18: State) -> None:
    state = {k: v for k, v in bireal18.items() if "num_batches" not in k}
    zero = state["layer1.0.binary_conv.weights"].clone()
    zero[:5] = 0.0
    assert to_network(state | {"layer1.0.binary_conv.weights": zero}, 18).zero_weights == 5
    variance = state["layer2.1.bn1.running_var"].clone()
    variance[3] = -1e-3
    with pytest.raises(ValueError, match=r"negative variances in layer2\.1\.bn1\.running_var$"):
        to_network(state | {"layer2.1.bn1.running_var": variance}, 18)
    state["fc.bias"] = torch.full((1000,), float("nan"))
    with pytest.raises(ValueError, match=r"non-finite values in fc\.bias"):
        to_network(state, 18)


def test_8_bit_floats_are_widened(bireal18: State) -> None:
    """PyTorch can store float8 but not test or compare it."""
    state = dict(bireal18)
    for name in ("fc.weight", "bn1.running_var"):
        state[name] = state[name].to(torch.float8_e4m3fn)
    network = to_network(state, 18).network
    assert network.fc is not None
    assert torch.equal(network.fc.weight, state["fc.weight"].float())
    with pytest.raises(ValueError, match=r"non-finite values in fc\.bias"):
        to_network(state | {"fc.bias": torch.full((1000,), 1e300, dtype=torch.float64)}, 18)


def test_class_lists(tmp_path: Path) -> None:
    path = tmp_path / "classes"
    path.write_text(json.dumps({"1": ["n02", "gold_fish"], "0": ["n01", "tench"]}))
    assert [(c.wnid, c.name) for c in read_class_file(path, 2)] == [("n01", "tench"), ("n02", "gold fish")]
    path.write_text(json.dumps([{"index": 0, "wnid": "n01", "name": "tench, Tinca tinca"}]))
    assert read_class_file(path, 1)[0].name == "tench"
    for between in (" ", "\t", "  "):
        path.write_text(f"n00000001{between}great white shark\nplain name\n")
        assert [(c.wnid, c.name) for c in read_class_file(path, 2)] == [
            ("n00000001", "great white shark"),
            ("class0001", "plain name"),
        ]
    path.write_bytes("crème brûlée\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"classes is not UTF-8 \(byte 2: 0xe8\): convert it, .*iconv -f latin1"):
        read_class_file(path, 1)
    path.write_text("n00000001 tench\nplain name\n")
    with pytest.raises(ValueError, match="lists 2 classes, but the network has 3 outputs"):
        read_class_file(path, 3)
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="expected a JSON list"):
        read_class_file(path, 2)
    assert len({c.wnid for c in generic_classes(1000)}) == 1000
