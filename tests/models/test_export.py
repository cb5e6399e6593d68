"""Export: PyTorch against the exported graph, its float reference and the bit-packed operator."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from models.accounting import cost_of
from models.arch import ArchConfig, BiRealNet, ResNet, build
from models.data.folder import ClassName
from models.data.normalise import normalise
from models.export.__main__ import unknown_recipe
from models.export.card import make_card, write_model
from models.export.convert import to_onnx
from models.export.cost import cost_of_graph
from models.export.packed_ops import pack_weight
from models.export.verify import VerificationError, smooth_images, verify
from models.export.verify_layers import layer_errors
from models.train.recipes import RECIPES
from service.backends import backend_for
from service.backends.audit import Audit
from service.backends.derive import derive_reference
from service.card import Card

ZOO = Path(__file__).resolve().parents[2] / "models" / "zoo"
CLASSES = tuple(ClassName(f"n{i:08d}", f"thing {i}") for i in range(10))
CASES = [
    ArchConfig(depth=18, method="bireal", num_classes=10, width=0.5),
    ArchConfig(depth=50, method="bireal", num_classes=10, width=0.25),
    ArchConfig(depth=50, method="bireal", task="depth", width=0.25, max_disparity_px=90.0),
    ArchConfig(depth=18, method="none", num_classes=10, width=0.5),
    ArchConfig(depth=50, method="none", task="depth", width=0.25, max_disparity_px=90.0),
]


def names(config: ArchConfig) -> str:
    return f"{config.method}{config.depth}-{config.task}"


def random_network(config: ArchConfig, seed: int = 0) -> nn.Module:
    """Fresh weights and BatchNorm statistics that are not the identity."""
    torch.manual_seed(seed)
    network = build(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0.0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.2, 0.6)
            nn.init.normal_(module.bias, 0.0, 0.2)
    return network.eval()


@pytest.mark.parametrize("config", CASES, ids=names)
def test_graph_computes_what_pytorch_does(config: ArchConfig) -> None:
    network = random_network(config)
    agreement = verify(network, to_onnx(network, 64, 96), 64, 96)  # type: ignore[arg-type]
    assert agreement["correlation"] > 0.999


def test_a_wrong_graph_is_refused() -> None:
    network = random_network(CASES[0])
    model = to_onnx(network, 64, 64)  # type: ignore[arg-type]
    network.register_forward_hook(lambda _module, _inputs, logits: logits.flip(1))  # which no export can know of
    with pytest.raises(VerificationError, match="exported incorrectly"):
        verify(network, model, 64, 64)  # type: ignore[arg-type]


def change(model: onnx.ModelProto, op: str, place: int, factor: float) -> None:
    """Multiplies an input of the first such node."""
    node = next(node for node in model.graph.node if node.op_type == op)
    widened = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}  # from float16
    name = widened.get(node.input[place], node.input[place])
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    value = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((value * factor).astype(value.dtype), tensor.name))


@pytest.mark.parametrize(
    ("config", "op", "place", "factor", "message"),
    [
        (CASES[0], "Stem", 2, 1.5, r"layers of the shipped model differ .*: stem_\d+ \(0\.\d+\): they were rounded"),
        (CASES[0], "Pointwise", 2, -1.0, r"layers of the shipped model differ .*: \w+_down_\d+ \(2\)"),
        (CASES[0], "BConv", 2, np.inf, "the shipped model's outputs are not finite"),
        (CASES[3], "Gemm", 1, -1.0, "the shipped model's outputs have a correlation"),
    ],
)
def test_a_model_that_was_rounded_wrongly_is_refused(
    config: ArchConfig, op: str, place: int, factor: float, message: str
) -> None:
    """The float32 export of the same network is right, and was all that had to be."""
    network = random_network(config)
    model = to_onnx(network, 64, 64)  # type: ignore[arg-type]
    change(model, op, place, factor)
    with pytest.raises(VerificationError, match=message):
        verify(network, model, 64, 64)  # type: ignore[arg-type]


def test_a_network_that_is_damaged_itself_is_no_fault_of_the_export() -> None:
    network = random_network(CASES[3])
    model = to_onnx(network, 64, 64)  # type: ignore[arg-type]
    next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)).running_var.fill_(-1.0)  # type: ignore[union-attr]
    with pytest.raises(VerificationError, match="the network's own outputs, in PyTorch, are not finite"):
        verify(network, model, 64, 64)  # type: ignore[arg-type]


@pytest.mark.parametrize("config", CASES[:3], ids=names)
def test_bit_packed_layers_equal_the_reference_exactly(config: ArchConfig) -> None:
    model = to_onnx(random_network(config), 64, 96)  # type: ignore[arg-type]
    layers = Audit(model, names(config)).compare(smooth_images(2, 64, 96))
    sums = sum(layer.sums for layer in layers)
    assert sums > 100_000
    assert [layer for layer in layers if not layer.exact] == []


def export_to(folder: Path, config: ArchConfig, size: int = 64, recipe: str = "bireal18-tiny100") -> Card:
    """Export a random binary network and load its card again."""
    model = to_onnx(random_network(config), size, size)  # type: ignore[arg-type]
    card = make_card(
        "binary-test",
        "1",
        config,
        RECIPES[recipe],
        model,
        height=size,
        width=size,
        classes=CLASSES[: config.num_classes] if config.task == "classify" else (),
        stem_precision="int16",
        pointwise_precision="int8",
        provenance={"command": "python -m models.train", "hardware": "none"},
        wall_time_s=1.0,
        notes="",
        metrics=[],
    )
    return Card.load(write_model(card, model, folder))


@pytest.mark.parametrize(("recipe", "shorter"), [("bireal18-tiny100", 64), ("paper-bireal18-imagenet", 73)])
def test_a_card_scales_images_as_the_recipe_says(recipe: str, shorter: int, tmp_path: Path) -> None:
    """Sec. 4.1 cuts 224 from a shorter side of 256; of a smaller input it is the same share."""
    card = export_to(tmp_path, CASES[0], recipe=recipe)
    assert card.input.resize_shorter == shorter
    assert ("Trained on 64x64 images" in " ".join(card.limits)) == (recipe == "bireal18-tiny100")


@pytest.mark.parametrize("folder", sorted(ZOO.glob("*/*/card.yaml")), ids=lambda path: path.parent.parent.name)
def test_a_shipped_card_states_the_limits_and_the_departures_of_its_recipe(folder: Path) -> None:
    card = Card.load(folder.parent)
    recipe = RECIPES[card.training.recipe]
    assert card.limits == tuple(
        limit.format(classes=len(card.classes or ()), calibration=card.limits[-1]) for limit in recipe.limits
    )
    assert (card.training.data, card.training.source) == (recipe.data, recipe.source)


def test_the_limits_of_our_few_frames_are_not_those_of_the_papers_recipe_or_of_an_unknown_one(tmp_path: Path) -> None:
    ours, papers = (
        " ".join(export_to(tmp_path, CASES[2], recipe=recipe).limits)
        for recipe in ("bireal50-kitti-depth", "paper-bireal50-kitti-depth")
    )
    assert "a few hundred frames" in ours
    assert "hundred" not in papers and "no ground truth" not in papers and "KITTI's camera" in papers
    unknown = unknown_recipe("an ablation's", CASES[2], None).limits
    assert "Not trained by a recipe" in unknown[0] and "KITTI's camera" in unknown[-1]
    assert "classes" not in " ".join(unknown)


def test_one_bit_a_weight_on_disk(tmp_path: Path) -> None:
    card = export_to(tmp_path, ArchConfig(depth=18, num_classes=10))
    card.verify_file()
    assert card.weights.binary_params == 10_985_472
    assert card.weights.binary_bytes == 10_985_472 // 8
    size = card.path.stat().st_size
    assert card.weights.artefact_bytes == size
    assert size < 10_985_472 / 8 + 2 * card.weights.real_params + 60_000


def test_a_file_that_is_read_meanwhile_is_replaced_not_overwritten(tmp_path: Path) -> None:
    """A service that reads it would get a mixture of both."""
    card = export_to(tmp_path, CASES[3], size=32)
    content = card.path.read_bytes()
    with card.path.open("rb") as reading:
        export_to(tmp_path, CASES[0], size=32)
        assert card.path.read_bytes() != content
        assert reading.read() == content
    assert {path.name for path in card.directory.iterdir()} == {"card.yaml", "model.onnx"}


def test_both_variants_answer_alike(tmp_path: Path) -> None:
    card = export_to(tmp_path, CASES[0])
    images = smooth_images(64, 64, 64, seed=5)
    outputs = {v: backend_for(v).load(card, v, intra_op_threads=1).run(images) for v in ("binary", "reference")}
    agree = (outputs["binary"].argmax(1) == outputs["reference"].argmax(1)).mean()
    assert agree >= 0.95
    assert np.corrcoef(outputs["binary"].ravel(), outputs["reference"].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("config", [CASES[0], CASES[1], CASES[3]], ids=names)
def test_a_graph_costs_what_its_network_does(config: ArchConfig) -> None:
    network, graph = cost_of(config, 64, 96), cost_of_graph(to_onnx(random_network(config), 64, 96))  # type: ignore[arg-type]
    assert (graph.binary_macs, graph.real_macs) == (network.binary_macs, network.real_macs)
    assert graph.binary_params == network.binary_params
    assert graph.real_params == pytest.approx(network.real_params, rel=0.02 if config.binary else 0.01)


def test_packed_words() -> None:
    weight = np.ones((1, 33, 1, 1), np.float32)
    weight[0, [0, 5, 32]] = -1
    weight[0, 7] = 0.0
    assert pack_weight(weight).ravel().tolist() == [0b100001, 1]


@pytest.mark.parametrize(("precision", "least", "most"), [("int16", 1e-6, 3e-4), ("int8", 1e-3, 2e-2)])
def test_integer_stems_are_close_to_the_float_one(precision: str, least: float, most: float) -> None:
    """Each on its own: in a whole random network a few flipped signs decide, whatever the stem's rounding."""
    network, images = random_network(CASES[0]), smooth_images(4, 64, 64)
    exact, rounded = (
        to_onnx(network, 64, 64, stem_precision=stem, half=False)  # type: ignore[arg-type]
        for stem in ("float32", precision)
    )
    (error,) = (e for layer, e in layer_errors(rounded, exact, images).items() if layer.startswith("stem"))
    assert least < error < most


def test_8_bit_1x1_convolutions_are_close_to_float_ones() -> None:
    network = random_network(CASES[1])
    images = smooth_images(4, 64, 64)
    outputs = []
    for precision in ("float32", "int8"):
        model = to_onnx(network, 64, 64, stem_precision="float32", pointwise_precision=precision, half=False)  # type: ignore[arg-type]
        session = ort.InferenceSession(derive_reference(model).model.SerializeToString())
        outputs.append(session.run(None, {"image": images})[0].ravel())
    assert np.corrcoef(outputs)[0, 1] > 0.5, (
        "random networks amplify rounding; what it costs a trained one is on its card"
    )
    with pytest.raises(ValueError, match="pointwise precision 'int4' is not one of int8, float32"):
        to_onnx(network, 64, 64, pointwise_precision="int4")  # type: ignore[arg-type]


def test_float16_storage_halves_the_file() -> None:
    network = random_network(CASES[3])
    assert isinstance(network, ResNet)
    sizes = [len(to_onnx(network, 64, 64, half=half).SerializeToString()) for half in (True, False)]
    assert sizes[0] < 0.52 * sizes[1]


def test_depth_input_must_fit_the_strides() -> None:
    network = random_network(CASES[2])
    with pytest.raises(ValueError, match="multiples of 32"):
        to_onnx(network, 100, 96)  # type: ignore[arg-type]


def test_training_mode_is_left() -> None:
    network = random_network(CASES[0]).train()
    assert isinstance(network, BiRealNet)
    to_onnx(network, 64, 64)
    with torch.no_grad():
        x = normalise(torch.zeros(1, 3, 64, 64))
        assert torch.equal(network(x), network(x))
