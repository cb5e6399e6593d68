"""Rewriting of older exports: the same network, in fewer operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from torch import nn

from models.export.card import replace_files
from models.export.fuse import fuse, main, rewrite
from models.export.graph import BATCH, After, GraphBuilder, Tensor, leaky_clip
from models.export.packed_ops import PackedOps
from models.export.verify import smooth_images
from service.backends.audit import Audit
from service.backends.derive import derive_reference
from service.backends.session import open_session
from service.card import Card
from service.errors import ModelBrokenError
from service.xnor_op import library_path
from tests.backends.zoo import write_model

SIZE = 32
CLASSES = 5


def older_export(seed: int) -> onnx.ModelProto:
    """Stem, clipped 1x1 by stock nodes, a binary layer beside a real shortcut, and a stock classifier."""
    rng = np.random.default_rng(seed)
    builder = GraphBuilder(half=True)
    ops = PackedOps(builder, "int16", "int8")
    stem = nn.Sequential(nn.Conv2d(3, 24, 7, 2, 3, bias=False), nn.BatchNorm2d(24)).eval()
    x = ops.stem((BATCH, SIZE, SIZE, 3), stem, pool=True, bits=False).values

    def product(value: Tensor, out: int, hint: str) -> Tensor:
        matrix = rng.standard_normal((value.size(3), out)) * value.size(3) ** -0.5
        return builder.op("MatMul", [value.name, builder.weight(matrix, hint)], (*value.shape[:3], out), hint)

    reduced = product(leaky_clip(builder, x, "first"), 40, "first_reduce")
    bias = builder.constant(rng.standard_normal(40).astype(np.float32), "first_bias")
    o1 = builder.op("Add", [reduced.name, bias], reduced.shape, "first_reduced")
    bits = ops.pack(o1, "first_pack")
    shortcut = product(ops.avg_pool2(x), 48, "down")
    weight, scale = rng.standard_normal((48, 40, 3, 3)), np.full(48, 0.05)
    y = ops.bconv(bits, weight, scale, 0.0, 2, After(residual=shortcut), "body").values
    mean = builder.op("ReduceMean", [y.name], (BATCH, 48), "pooled", axes=[1, 2], keepdims=0)
    matrix = builder.weight(rng.standard_normal((48, CLASSES)) * 3, "fc_weight")
    offset = builder.constant(np.arange(CLASSES, dtype=np.float32), "fc_bias")
    return builder.finish(
        (BATCH, SIZE, SIZE, 3), builder.op("Gemm", [mean.name, matrix, offset], (BATCH, CLASSES), "logits"), "logits"
    )


def logits(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = open_session(model.SerializeToString(), name="test", intra_op_threads=1, op_library=library_path())
    return np.asarray(session.run(None, {"image": images})[0])


def stored(model: onnx.ModelProto, kind: int) -> list[bytes]:
    return sorted(numpy_helper.to_array(t).tobytes() for t in model.graph.initializer if t.data_type == kind)


def test_as_stored_nothing_changes_but_rounding(seed: int) -> None:
    model = older_export(seed)
    before = model.SerializeToString(deterministic=True)
    fused = fuse(model, "float32")
    assert model.SerializeToString(deterministic=True) == before
    kinds = [node.op_type for node in fused.graph.node]
    assert kinds == [
        "Stem",
        "Pointwise",
        "AvgPool2",
        "Pointwise",
        "BConv",
        "GlobalMean",
        "Pointwise",
        "Reshape",
        "Identity",
    ]
    for kind in (TensorProto.INT32, TensorProto.INT16, TensorProto.FLOAT16):  # signs, stem, real-valued weights
        assert stored(fused, kind) == stored(model, kind)
    images = smooth_images(3, SIZE, SIZE)
    np.testing.assert_allclose(logits(fused, images), logits(model, images), atol=2e-2)
    assert np.corrcoef(logits(fused, images).ravel(), logits(model, images).ravel())[0, 1] > 0.9999
    assert all(layer.exact for layer in Audit(fused, "fused").compare(images))


def test_8_bit_weights_leave_the_signs_and_the_classifier_alone(seed: int) -> None:
    model = older_export(seed)
    fused = fuse(model, "int8")
    weights = {t.name: t for t in fused.graph.initializer}
    kinds = [weights[n.input[1]].data_type for n in fused.graph.node if n.op_type == "Pointwise"]
    assert kinds == [TensorProto.INT8, TensorProto.INT8, TensorProto.FLOAT]  # the last is small: it was kept as float32
    assert stored(fused, TensorProto.INT32) == stored(model, TensorProto.INT32)
    images = smooth_images(3, SIZE, SIZE)
    assert np.corrcoef(logits(fused, images).ravel(), logits(model, images).ravel())[0, 1] > 0.98
    assert all(layer.exact for layer in Audit(fused, "fused").compare(images))
    derive_reference(fused)


def test_the_card_follows_the_file(tmp_path: Path, seed: int) -> None:
    model = older_export(seed)
    before = write_model(tmp_path, model)
    rewrite(tmp_path, "int8", None, "dev")
    card = Card.load(tmp_path)
    card.verify_file()
    assert card.sha256 != before.sha256
    assert card.pointwise_precision == "int8"
    assert card.weights.binary_bytes == 48 * 9 * 2 * 4
    assert card.weights.artefact_bytes == card.path.stat().st_size


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_without_standard_nodes_is_refused_and_its_card_left_alone(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path, older_export(seed))
    rewrite(tmp_path, "int8", None, "dev")
    before = contents(tmp_path)
    monkeypatch.setattr("sys.argv", ["fuse", str(tmp_path), "--pointwise", "float32"])
    assert main() == 2
    assert "models.export --pointwise" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_damaged_file_does_not_get_a_card_that_says_it_is_intact(tmp_path: Path, seed: int) -> None:
    card = write_model(tmp_path, older_export(seed))
    model = onnx.load(card.path)
    signs = next(tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT32)
    signs.raw_data = bytes([signs.raw_data[0] ^ 1]) + signs.raw_data[1:]
    onnx.save(model, card.path)
    before = contents(tmp_path)
    with pytest.raises(ModelBrokenError, match="sha256"):
        rewrite(tmp_path, "int8", None, "dev")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("broken", ["model_validate", "write"])
def test_a_model_whose_card_cannot_be_written_stays_as_it_was(
    broken: str, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Card:
        raise ValueError("refused")

    write_model(tmp_path, older_export(seed))
    before = contents(tmp_path)
    monkeypatch.setattr("models.export.fuse.Card.load", lambda folder, load=Card.load: prepared(load(folder)))

    def prepared(card: Card) -> Card:  # the card is broken from here on, not while it is read
        monkeypatch.setattr(Card, broken, refuse)
        return card

    with pytest.raises(ValueError, match="refused"):
        rewrite(tmp_path, "int8", None, "dev")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("there", [True, False])
def test_a_model_whose_card_cannot_be_replaced_stays_as_it_was(there: bool, tmp_path: Path, seed: int) -> None:
    card = write_model(tmp_path, older_export(seed))
    (tmp_path / "card.yaml").unlink()
    (tmp_path / "card.yaml").mkdir()  # which no file can replace
    before = card.path.read_bytes()
    if not there:
        card.path.unlink()
    with pytest.raises(IsADirectoryError):
        replace_files(tmp_path, card, b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"card.yaml", *(["model.onnx"] if there else [])}
    assert not there or card.path.read_bytes() == before


def test_a_full_precision_model_is_refused(tmp_path: Path, seed: int) -> None:
    write_model(tmp_path, older_export(seed), precision="full")
    with pytest.raises(ValueError, match="not a binary model"):
        rewrite(tmp_path, "int8", None, "dev")
