"""The derived reference against an independent NumPy implementation of the packed dialect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.backends.audit_graphs import add_outputs, sum_output, tapped_graph
from service.backends.derive import derive_reference
from service.backends.dialect import GraphError, PackedGraph
from tests.backends.dialect_numpy import evaluate, signs_of, window_sums
from tests.backends.graphs import PackedGraphBuilder, bireal18_like, bottleneck_like
from tests.backends.zoo import images_for

GRAPHS = {
    "18": lambda seed, **kind: bireal18_like(seed, **kind),
    "18, odd size": lambda seed, **kind: bireal18_like(seed, size=(45, 33), **kind),
    "18, channels beside the word": lambda seed, **kind: bireal18_like(
        seed, size=(40, 40), widths=(31, 33, 70), **kind
    ),
    "18, down to one pixel": lambda seed, **kind: bireal18_like(seed, size=(17, 9), widths=(32, 48, 64), **kind),
    "18, int16 stem": lambda seed, **kind: bireal18_like(seed, size=(39, 50), integer_stem=True, **kind),
    "bottleneck, depth": lambda seed, **kind: bottleneck_like(seed, **kind),
    "bottleneck, odd size": lambda seed, **kind: bottleneck_like(seed, size=(41, 57), width=9, depth=False, **kind),
    "bottleneck, float16 1x1": lambda seed, **kind: bottleneck_like(seed, pointwise="float16", **kind),
    "bottleneck, float32 1x1": lambda seed, **kind: bottleneck_like(seed, pointwise="float32", depth=False, **kind),
}


def run_reference(model: onnx.ModelProto, image: np.ndarray, *, sums: bool = False) -> dict[str, np.ndarray]:
    """Outputs of the derived graph, and its integer sums as [N,OH,OW,O] under the layers' names."""
    reference = derive_reference(model)
    onnx.checker.check_model(reference.model, full_check=True)
    options = ort.SessionOptions()
    if sums:
        add_outputs(reference.model, dict.fromkeys(reference.sums.values(), TensorProto.FLOAT))
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(reference.model.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, {"image": image}), strict=True))
    layers = {name: layer for layer, name in reference.sums.items()}
    return {layers.get(k, k): v.transpose(0, 2, 3, 1) if k in layers else v for k, v in outputs.items()}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("graph", GRAPHS)
def test_a_network_without_rounding_equals_the_numpy_implementation(
    graph: str, batch: int, seed: int, rng: np.random.Generator
) -> None:
    model = GRAPHS[graph](seed, exact=True)
    image = images_for(model, rng, batch)
    expected = evaluate(tapped_graph(PackedGraph(model)), image)
    found = run_reference(model, image, sums=True)
    layers = [node.name for node in model.graph.node if node.op_type == "BConv"]
    assert layers
    for layer in layers:
        np.testing.assert_array_equal(found[layer], expected[sum_output(layer)], err_msg=layer)
    output = model.graph.output[0].name
    assert found[output].shape == expected[output].shape
    np.testing.assert_allclose(found[output], expected[output], rtol=1e-4, atol=1e-4)
    assert expected[output].std() > 0.01, "a constant output would prove nothing"


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("graph", GRAPHS)
def test_the_optimised_reference_equals_the_unoptimised_one(
    graph: str, batch: int, seed: int, rng: np.random.Generator
) -> None:
    model = GRAPHS[graph](seed, exact=True)
    image = images_for(model, rng, batch)
    output = model.graph.output[0].name
    unoptimised = run_reference(model, image, sums=True)[output]
    np.testing.assert_allclose(run_reference(model, image)[output], unoptimised, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel", "stride", "pool"), [(7, 2, 1), (7, 2, 0), (3, 1, 0), (5, 1, 1), (1, 2, 1)])
@pytest.mark.parametrize("size", [(32, 32), (33, 21), (1, 1), (2, 5)])
def test_a_stem_of_real_weights_equals_the_numpy_implementation(
    kernel: int, stride: int, pool: int, size: tuple[int, int], seed: int, rng: np.random.Generator
) -> None:
    g = PackedGraphBuilder(seed, *size)
    model = g.classifier(g.stem(16, kernel=kernel, stride=stride, pool=pool, bits=False), 5)
    image = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
    expected = evaluate(model, image)["logits"]
    np.testing.assert_allclose(run_reference(model, image)["logits"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_integer_sum_follows_exactly_from_the_signs_before_it(
    graph: str, seed: int, rng: np.random.Generator
) -> None:
    """With real weights: sums are recomputed from the reference's own signs, so that rounding has no part in it."""
    model = GRAPHS[graph](seed)
    image = images_for(model, rng, 2)
    reference = derive_reference(model)
    convolutions = [node for node in model.graph.node if node.op_type == "BConv"]
    signs = {node.input[0]: f"{node.input[0]}::signs" for node in convolutions}
    wanted = [*dict.fromkeys(signs.values()), *reference.sums.values()]
    add_outputs(reference.model, dict.fromkeys(wanted, TensorProto.FLOAT))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(reference.model.SerializeToString(), options)
    found = dict(zip(wanted, session.run(wanted, {"image": image}), strict=True))
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert len(convolutions) == len(reference.sums) > 0
    for node in convolutions:
        attributes = {a.name: a.i for a in node.attribute}
        x = found[signs[node.input[0]]].transpose(0, 2, 3, 1)
        assert set(np.unique(x)) <= {-1.0, 1.0}
        weight = signs_of(weights[node.input[1]], attributes["channels"])
        expected = window_sums(x.astype(np.int64), weight, attributes["stride"])
        np.testing.assert_array_equal(found[reference.sums[node.name]].transpose(0, 2, 3, 1), expected)


def test_signs_of_zero_nan_and_thresholds(rng: np.random.Generator) -> None:
    """A stem without weights puts chosen numbers into the map; a 1x1 binary convolution shows their signs."""
    values = np.array([0.0, -0.0, np.nan, 1.0, -1.0, 1e-45, -1e-45, 0.5], np.float32)
    for threshold in (None, np.array([0, 0, 0, 2, -2, 0, -1, 0.5], np.float32)):
        g = PackedGraphBuilder(0, 3, 3)
        g.stem(8, kernel=1, stride=1, pool=0, bits=False)
        constants = {tensor.name: tensor for tensor in g.initializers}
        constants["stem.weight"].CopyFrom(numpy_helper.from_array(np.zeros((8, 1, 1, 3), np.float32), "stem.weight"))
        constants["stem.bias"].CopyFrom(numpy_helper.from_array(values, "stem.bias"))
        g.pack("stem", "stem.bits", threshold=threshold is not None)
        if threshold is not None:
            packed_threshold = g.initializers[-1]
            packed_threshold.CopyFrom(numpy_helper.from_array(threshold, packed_threshold.name))
        g.bconv("stem", "out", 8, kernel=1, bits=False)
        only_own_channel = 1 - 2 * np.eye(8)  # row o: -1 at o; sum = (all signs) - 2 * sign o
        words = np.array([sum(1 << c for c in range(8) if row[c] < 0) for row in only_own_channel], np.int32)
        weight = next(t for t in g.initializers if t.name == "out.weight")
        weight.CopyFrom(numpy_helper.from_array(words.reshape(8, 1, 1, 1), "out.weight"))
        sums = run_reference(g.classifier("out", 2), np.zeros((1, 3, 3, 3), np.uint8), sums=True)["out"]
        signs = np.where(values < (0 if threshold is None else threshold), -1, 1)
        np.testing.assert_array_equal(sums, np.broadcast_to(only_own_channel @ signs, sums.shape))


def test_chains_of_converted_operators_have_no_transpose_inside(seed: int) -> None:
    model = bireal18_like(seed, widths=(32, 64, 96, 128))
    derived = derive_reference(model).model
    counts = Counter(node.op_type for node in derived.graph.node)
    # One for the image, one before the head, and two around each of the three real 1x1 convolutions.
    assert counts["Transpose"] == 2 + 2 * 3
    assert counts["Sign"] == 0
    assert all(node.domain == "" for node in derived.graph.node)
    assert [o.domain for o in derived.opset_import] == [""]
    stored = {tensor.name for tensor in derived.graph.initializer}
    assert stored <= {name for node in derived.graph.node for name in node.input}, "unused constants were kept"


def test_the_packed_model_is_left_as_it_was(seed: int) -> None:
    model = bottleneck_like(seed)
    before = model.SerializeToString(deterministic=True)
    derive_reference(model)
    assert model.SerializeToString(deterministic=True) == before


def test_onnxruntime_folds_scale_bias_and_nothing_else_into_the_convolutions(seed: int, tmp_path: Path) -> None:
    """The served reference must be as fast as a float network of its shape is."""
    derived = derive_reference(bireal18_like(seed)).model
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it warns that an optimised file is for this machine only: it is
    ort.InferenceSession(derived.SerializeToString(), options)
    counts = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    convolutions = Counter(node.op_type for node in derived.graph.node)["Conv"]
    assert counts["Conv"] + counts["FusedConv"] == convolutions
    assert counts["Mul"] == 0


def test_constants_may_be_nodes(seed: int, rng: np.random.Generator) -> None:
    model = bireal18_like(seed, size=(33, 33), widths=(32,), blocks=1)
    image = images_for(model, rng, 1)
    expected = run_reference(model, image)["logits"]
    moved = [t for t in model.graph.initializer if t.name.endswith((".weight", ".scale")) and "fc" not in t.name]
    for tensor in moved:
        model.graph.initializer.remove(tensor)
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    np.testing.assert_array_equal(run_reference(model, image)["logits"], expected)


def _first(model: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == op_type)


def _unknown_operator(model: onnx.ModelProto) -> None:
    _first(model, "BConv").op_type = "TConv"


def _missing_attribute(model: onnx.ModelProto) -> None:
    del _first(model, "BConv").attribute[:]


def _computed_weight(model: onnx.ModelProto) -> None:
    _first(model, "BConv").input[1] = "stem.bits"


def _short_scale(model: onnx.ModelProto) -> None:
    _first(model, "BConv").input[2] = "fc.bias"


def _wrong_channels(model: onnx.ModelProto) -> None:
    next(a for a in _first(model, "BConv").attribute if a.name == "channels").i = 99


def _float_bits(model: onnx.ModelProto) -> None:
    _first(model, "BConv").input[0] = "stem"


def _bits_to_stock_node(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["stem.bits"], ["leak"], name="leak"))


def _bits_as_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("stem.bits", TensorProto.INT32, None))


def _subgraph(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(
        helper.make_node("If", ["condition"], ["out"], name="if", then_branch=body, else_branch=body)
    )


def _short_data(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "layer1.0.weight")
    tensor.raw_data = tensor.raw_data[:-4]


def _old_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 11


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_unknown_operator, r"layer1\.0.*unknown operator bireal\.TConv.*BConv"),
        (_missing_attribute, r"layer1\.0 \(BConv\).*'channels'"),
        (_computed_weight, r"layer1\.0 \(BConv\): weight must be a constant"),
        (_short_scale, r"layer1\.0 \(BConv\): scale has the shape \[10\], expected \[32\]"),
        (_wrong_channels, r"layer1\.0 \(BConv\): weight has the shape \[32, 3, 3, 1\], expected \[any, 3, 3, 4\]"),
        (_float_bits, r"layer1\.0 \(BConv\): 'stem' is not a bits output"),
        (_bits_to_stock_node, r"leak \(Identity\) reads the packed bits 'stem\.bits'"),
        (_bits_as_output, r"output stem\.bits holds packed bits"),
        (_subgraph, r"if \(If\) has a subgraph"),
        (_short_data, r"layer1\.0 \(BConv\): weight cannot be read"),
        (_old_opset, r"opset 11 .* 13"),
    ],
)
def test_a_broken_graph_is_named(damage: Callable[[onnx.ModelProto], None], says: str) -> None:
    model = bireal18_like(0, size=(32, 32), widths=(32,), blocks=1)
    damage(model)
    with pytest.raises(GraphError, match=says):
        derive_reference(model)
