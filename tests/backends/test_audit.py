"""Parity of the bit-packed operator with stock ONNX Runtime and NumPy, layer by layer; and that faults are seen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from service import xnor_op
from service.backends.audit import Audit, LayerParity
from service.backends.audit_graphs import sum_output, tapped_graph
from service.backends.dialect import PackedGraph
from service.errors import ModelBrokenError
from tests.backends.dialect_numpy import evaluate
from tests.backends.graphs import bireal18_like, bottleneck_like
from tests.backends.zoo import images_for, write_model

ROOT = Path(__file__).resolve().parents[2]
GRAPHS = {
    "18": lambda seed, **kind: bireal18_like(seed, **kind),
    "18, odd size": lambda seed, **kind: bireal18_like(seed, size=(75, 53), **kind),
    "18, channels beside the word": lambda seed, **kind: bireal18_like(seed, size=(40, 44), widths=(1, 33, 70), **kind),
    "18, wide": lambda seed, **kind: bireal18_like(seed, size=(29, 35), widths=(64, 512, 544), blocks=1, **kind),
    "18, down to one pixel": lambda seed, **kind: bireal18_like(seed, size=(17, 9), widths=(32, 48, 64), **kind),
    "18, int16 stem": lambda seed, **kind: bireal18_like(seed, size=(39, 50), integer_stem=True, **kind),
    "bottleneck": lambda seed, **kind: bottleneck_like(seed, **kind),
    "bottleneck, odd size": lambda seed, **kind: bottleneck_like(seed, size=(41, 57), width=9, depth=False, **kind),
    "bottleneck, float16 1x1": lambda seed, **kind: bottleneck_like(seed, pointwise="float16", **kind),
    "bottleneck, float32 1x1": lambda seed, **kind: bottleneck_like(seed, pointwise="float32", depth=False, **kind),
}


def judged(audit: Audit, images: np.ndarray) -> tuple[LayerParity, ...]:
    """Findings of a comparison, after a check that there is something in them."""
    findings = audit.compare(images)
    assert {f.op for f in findings} >= {"Stem", "BConv"}
    assert all(f.sums > 0 and f.words > 0 for f in findings if f.op == "BConv")
    assert all(f.words > 0 for f in findings if f.op in ("Stem", "Pack"))
    return findings


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("graph", GRAPHS)
def test_every_layer_agrees_with_stock_operators(graph: str, batch: int, seed: int, rng: np.random.Generator) -> None:
    model = GRAPHS[graph](seed)
    findings = judged(Audit(model, graph, intra_op_threads=2), images_for(model, rng, batch))
    assert [f for f in findings if not f.exact] == []


@pytest.mark.parametrize("graph", GRAPHS)
def test_integer_sums_of_a_network_without_rounding_equal_numpys_on_both_sides(
    graph: str, seed: int, rng: np.random.Generator
) -> None:
    model = GRAPHS[graph](seed, exact=True)
    images = images_for(model, rng, 2)
    audit = Audit(model, graph)
    binary, reference = audit.integer_sums(images, "binary"), audit.integer_sums(images, "reference")
    expected = evaluate(tapped_graph(PackedGraph(model)), images)
    layers = [node.name for node in model.graph.node if node.op_type == "BConv"]
    assert sorted(binary) == sorted(reference) == sorted(layers)
    for layer in layers:
        assert binary[layer].dtype == reference[layer].dtype == np.int32
        np.testing.assert_array_equal(binary[layer], expected[sum_output(layer)], err_msg=layer)
        np.testing.assert_array_equal(reference[layer], expected[sum_output(layer)], err_msg=layer)


@pytest.mark.parametrize("depth", [False, True])
def test_8_bit_1x1_convolutions_equal_stock_operators_exactly(depth: bool, seed: int, rng: np.random.Generator) -> None:
    """Rounding to 8 bits included: sums are integers on both sides, and the few steps behind them round alike."""
    model = bottleneck_like(seed, size=(61, 43), width=12, depth=depth, pointwise="int8")
    findings = judged(Audit(model, "int8", intra_op_threads=2), images_for(model, rng, 2))
    assert [f for f in findings if not f.exact] == []
    products = [f for f in findings if f.op == "Pointwise"]
    assert len(products) == 6
    assert {f.rounding for f in products} == {0.0}


def test_integer_sums_of_real_weights_agree_but_for_rare_ties(seed: int, rng: np.random.Generator) -> None:
    """Free runs of a network with real weights: signs of values within rounding of zero may differ, no others."""
    model = bireal18_like(seed)
    audit = Audit(model, "real")
    images = images_for(model, rng, 16)
    binary, reference = audit.integer_sums(images), audit.integer_sums(images, "reference")
    untouched = [all((binary[layer][i] == reference[layer][i]).all() for layer in binary) for i in range(len(images))]
    assert sum(untouched) >= 12


def test_of_a_card(tmp_path: Path, seed: int, rng: np.random.Generator) -> None:
    model = bireal18_like(seed, size=(32, 32), widths=(32,), blocks=1)
    card = write_model(tmp_path, model)
    images = images_for(model, rng, 1)
    assert all(f.exact for f in judged(Audit.of_card(card), images))
    of_card, of_model = (audit.integer_sums(images) for audit in (Audit.of_card(card), Audit(model, "same")))
    np.testing.assert_array_equal(of_card["layer1.1"], of_model["layer1.1"])


def _edit(
    model: onnx.ModelProto, name: str, position: tuple[int, ...], change: Callable[[Any], Any]
) -> onnx.ModelProto:
    edited = onnx.ModelProto()
    edited.CopyFrom(model)
    tensor = next(t for t in edited.graph.initializer if t.name == name)
    value = numpy_helper.to_array(tensor).copy()
    value[position] = change(value[position])
    tensor.CopyFrom(numpy_helper.from_array(value, name))
    return edited


@pytest.mark.parametrize(
    ("name", "position", "change", "field"),
    [
        ("layer1.1.weight", (3, 1, 1, 0), lambda word: word ^ np.int32(1 << 17), "sum_mismatches"),
        ("layer1.1.scale", (3,), lambda scale: scale * np.float32(1.0001), "rounding"),
        ("layer1.1.bias", (3,), lambda bias: bias + np.float32(0.01), "rounding"),
        ("stem.weight", (3, 2, 2, 1), lambda weight: weight + np.float32(0.05), "rounding"),
    ],
)
def test_one_wrong_weight_is_seen_in_its_layer_and_no_other(
    name: str, position: tuple[int, ...], change: Callable[[Any], Any], field: str, seed: int, rng: np.random.Generator
) -> None:
    """The stock side is built from a model with one number changed, as if the operator had read it wrongly."""
    model = bireal18_like(seed, size=(64, 48), widths=(32,), blocks=1)
    audit = Audit(model, "damaged")
    audit._isolated = Audit(_edit(model, name, position, change), "edited")._isolated
    findings = {f.layer: f for f in judged(audit, images_for(model, rng, 2))}
    faulty = [layer for layer, finding in findings.items() if not finding.exact]
    assert faulty == [name.rpartition(".")[0]]
    assert getattr(findings[faulty[0]], field) > (1 if field == "rounding" else 0)


def test_wrong_packed_signs_are_seen(seed: int, rng: np.random.Generator) -> None:
    model = bireal18_like(seed, size=(32, 32), widths=(40,), blocks=1)
    audit = Audit(model, "damaged")
    images = images_for(model, rng, 1)
    tapped = audit._run(audit._tapped_session, {"image": images}) | {"image": images}
    node = next(node for node in audit._graph.custom_nodes if node.layer == "layer1.0")
    isolated = {audit._isolated.sums["layer1.0"]: tapped["layer1.0::sum"].transpose(0, 3, 1, 2)}
    isolated[audit._isolated.values["layer1.0"]] = tapped["layer1.0"]
    assert audit._layer(node, tapped, isolated).exact
    bits = tapped["layer1.0.bits"]
    for position, fault in (((0, 0, 0, 0), 1), ((0, 2, 2, 1), 1 << 8), ((0, 3, 3, 0), 1 << 5)):  # border, tail, sign
        spoilt = bits.copy()
        spoilt[position] ^= fault
        finding = audit._layer(node, tapped | {"layer1.0.bits": spoilt}, isolated)
        assert finding.word_mismatches == 1
        assert not finding.exact


def test_a_value_that_is_not_a_number_is_not_within_rounding(seed: int, rng: np.random.Generator) -> None:
    model = _edit(
        bireal18_like(seed, size=(32, 32), widths=(32,), blocks=1), "layer1.0.bias", (0,), lambda _: np.float32(np.nan)
    )
    findings = {f.layer: f for f in Audit(model, "nan").compare(images_for(model, rng, 1))}
    assert not findings["layer1.0"].exact
    assert findings["layer1.0"].word_mismatches == 0, "NaN has the sign +1"
    assert findings["layer1.1"].sum_mismatches == 0


def test_a_broken_graph_is_refused_by_name(seed: int, tmp_path: Path) -> None:
    model = bireal18_like(seed, size=(32, 32), widths=(32,), blocks=1)
    card = write_model(tmp_path, model)
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelBrokenError, match=r"small: .*model\.onnx cannot be read as an ONNX file"):
        Audit.of_card(card)
    del next(n for n in model.graph.node if n.op_type == "BConv").attribute[:]
    with pytest.raises(ModelBrokenError, match=r"named \(audit\): Node layer1\.0 \(BConv\) has no integer attribute"):
        Audit(model, "named")


PARITY_SCRIPT = """
import sys
import numpy as np
from service import xnor_op
from service.backends.audit import Audit
from tests.backends.graphs import bireal18_like, bottleneck_like
from tests.backends.zoo import images_for
kernel, seed = sys.argv[1], int(sys.argv[2])
assert xnor_op.kernel_name() == kernel, xnor_op.kernel_name()
for model in (bireal18_like(seed, size=(61, 43), widths=(64, 70, 256, 512), blocks=1), bottleneck_like(seed)):
    images = images_for(model, np.random.default_rng(seed), 2)
    wrong = [finding for finding in Audit(model, "parity").compare(images) if not finding.exact]
    assert not wrong, wrong
"""


@pytest.mark.parametrize("kernel", ["scalar", "avx2", "avx512bw", "avx512vnni", "avx512vpopcnt", "neon", "neondot"])
def test_every_kernel_agrees_with_stock_operators(kernel: str, seed: int) -> None:
    """The kernel is chosen once a process, so that each gets a process of its own."""
    if kernel not in xnor_op.usable_kernels():
        pytest.skip(f"this CPU, or this build, has no kernel {kernel}")
    done = subprocess.run(
        [sys.executable, "-c", PARITY_SCRIPT, kernel, str(seed)],
        cwd=ROOT,
        env=os.environ | {"BIREAL_KERNEL": kernel},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
