"""The three variants loaded from cards and run: agreement, batches, threads, memory, and what goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from service import xnor_op
from service.backends import Backend, LoadedModel, backend_for
from service.card import VARIANTS, Card
from service.errors import (
    BadParameterError,
    ModelBrokenError,
    OpUnavailableError,
    UnknownVariantError,
    VariantNotServedError,
)
from tests.backends.graphs import PackedGraphBuilder, bireal18_like, bottleneck_like
from tests.backends.zoo import float_classifier, images_for, write_model
from tests.cards import classify_card, full_card

ROOT = Path(__file__).resolve().parents[2]


def load(card: Card, variant: str, threads: int = 1) -> LoadedModel:
    backend: Backend = backend_for(variant)
    return backend.load(card, variant, intra_op_threads=threads)


def test_every_variant_has_a_backend_and_a_model_that_has_it() -> None:
    """What docs/architecture.md says of a new variant."""
    assert {variant for card in (classify_card(), full_card()) for variant in card.variants} == set(VARIANTS)
    for variant in VARIANTS:
        backend_for(variant)


@pytest.fixture
def small(tmp_path: Path, seed: int) -> Card:
    """A small binary classifier in its folder."""
    return write_model(tmp_path / "small", bireal18_like(seed, size=(40, 33), widths=(32, 64), blocks=1, classes=7))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["18", "18 int16", "bottleneck classifier", "bottleneck depth"])
def test_binary_and_reference_are_equal_where_nothing_is_rounded(
    kind: str, threads: int, tmp_path: Path, seed: int, rng: np.random.Generator
) -> None:
    """Whole serving graphs, optimised and in place, on weights whose sums are exact: only the head may round."""
    if kind.startswith("18"):
        model = bireal18_like(seed, size=(61, 47), integer_stem="int16" in kind, exact=True)
    else:
        model = bottleneck_like(seed, size=(41, 57), depth="depth" in kind, exact=True)
    card = write_model(tmp_path, model)
    binary, reference = load(card, "binary", threads), load(card, "reference", threads)
    for batch in (1, 3):
        images = images_for(model, rng, batch)
        found, expected = binary.run(images), reference.run(images)
        assert found.dtype == expected.dtype == np.float32
        assert found.shape == expected.shape
        assert found.shape[0] == batch
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        assert np.ptp(found) > 0


def test_binary_and_reference_agree_on_the_class_of_real_weights(
    tmp_path: Path, seed: int, rng: np.random.Generator
) -> None:
    model = bireal18_like(seed, classes=10)
    card = write_model(tmp_path, model)
    images = images_for(model, rng, 200)
    binary, reference = load(card, "binary", 2).run(images), load(card, "reference", 2).run(images)
    # Untrained networks prefer one class for whatever they see; less that preference, images get different classes.
    # The bounds are those of random weights; the shipped ones are held to theirs in tests/live/test_shipped_models.py.
    preference = reference.mean(axis=0)
    classes = (binary - preference).argmax(axis=1)
    assert len(np.unique(classes)) > 1, "a constant answer would prove nothing"
    assert (classes == (reference - preference).argmax(axis=1)).mean() >= 0.97
    assert np.corrcoef((binary - preference).ravel(), (reference - preference).ravel())[0, 1] > 0.99


def test_a_batch_is_its_images_one_by_one(small: Card, rng: np.random.Generator) -> None:
    images = images_for(onnx.load(small.path), rng, 5)
    for variant in ("binary", "reference"):
        model = load(small, variant)
        single = np.concatenate([model.run(images[i : i + 1]) for i in range(5)])
        np.testing.assert_allclose(model.run(images), single, rtol=1e-5, atol=1e-5)


def test_runs_of_one_session_may_overlap(tmp_path: Path, seed: int, rng: np.random.Generator) -> None:
    """Eight threads on one session, batches of changing size: the answers are those of a quiet session."""
    model = bireal18_like(seed, size=(40, 33), widths=(32, 64), blocks=1)
    card = write_model(tmp_path, model)
    images = images_for(model, rng, 24)
    loaded = load(card, "binary", 2)
    slices = [slice(i, i + 1 + i % 3) for i in range(22)] * 6
    quiet = {(s.start, s.stop): loaded.run(images[s]) for s in slices}
    start = threading.Barrier(8)

    def run(worker: int) -> list[bool]:
        start.wait()
        return [np.array_equal(loaded.run(images[s]), quiet[s.start, s.stop]) for s in slices[worker::8]]

    with ThreadPoolExecutor(8) as pool:
        assert all(all(equal) for equal in pool.map(run, range(8)))


def test_full_runs_a_float_graph_stored_as_float16(tmp_path: Path, seed: int, rng: np.random.Generator) -> None:
    model = float_classifier(seed)
    card = write_model(tmp_path, model, precision="full")
    images = images_for(model, rng, 3)
    loaded = load(card, "full")
    expected = ort.InferenceSession(model.SerializeToString()).run(None, {"image": images})[0]
    np.testing.assert_allclose(loaded.run(images), expected, rtol=1e-5)
    described = loaded.describe()
    assert described["kernel"] == "onnxruntime"
    assert described["binary_weight_bytes"] == 0
    assert described["real_weight_bytes"] == card.weights.real_bytes
    assert described["artefact_bytes"] == card.path.stat().st_size


def test_descriptions_say_what_runs_and_what_it_weighs(small: Card) -> None:
    binary, reference = load(small, "binary").describe(), load(small, "reference").describe()
    assert binary["variant"] == "binary"
    assert binary["kernel"] == xnor_op.kernel_name()
    assert binary["binary_weight_bytes"] == small.weights.binary_bytes
    assert binary["real_weight_bytes"] == small.weights.real_bytes
    assert reference["variant"] == "reference"
    assert reference["binary_weight_bytes"] == 0
    assert reference["real_weight_bytes"] >= 4 * (small.weights.binary_params + small.weights.real_params)
    json.dumps([binary, reference])


def test_a_binary_session_takes_clearly_less_memory_than_its_reference(tmp_path: Path, seed: int) -> None:
    """At real size: ResNet-18's channels. The measured growth covers weights, runtime and one image's activations."""
    card = write_model(tmp_path, bireal18_like(seed, size=(64, 64), widths=(64, 128, 256, 512), classes=100))
    grown = {}
    for variant in ("reference", "binary"):
        loaded = load(card, variant)
        loaded.warm_up()
        grown[variant] = loaded.describe()["session_bytes"]
    assert grown["binary"] is not None
    assert grown["reference"] is not None
    weights = 4 * card.weights.binary_params
    assert 0.7 * weights < grown["reference"] < 1.6 * weights, "the weights once, and no copy of the graph"
    assert grown["binary"] < 0.5 * grown["reference"]


def test_a_closed_model_says_so_and_runs_in_progress_finish(small: Card, rng: np.random.Generator) -> None:
    loaded = load(small, "binary")
    images = images_for(onnx.load(small.path), rng, 40)
    expected = loaded.run(images)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(loaded.run, images)
        loaded.close()
        loaded.close()
        with contextlib.suppress(ModelBrokenError):  # closed before the thread had started: allowed, a crash is not
            np.testing.assert_array_equal(running.result(), expected)
    with pytest.raises(ModelBrokenError, match="unloaded"):
        loaded.run(images)


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 33, 40, 3), np.uint8),
        np.zeros((1, 40, 33, 4), np.uint8),
        np.zeros((40, 33, 3), np.uint8),
        np.zeros((0, 40, 33, 3), np.uint8),
        np.zeros((1, 40, 33, 3), np.float32),
    ],
    ids=["size", "channels", "rank", "empty", "type"],
)
def test_a_batch_of_another_shape_or_type_is_refused(small: Card, batch: np.ndarray) -> None:
    loaded = load(small, "binary")
    with pytest.raises(BadParameterError, match=r"uint8 \[N, 40, 33, 3\] with N >= 1; this is (uint8|float32) \["):
        loaded.run(batch)


def test_a_batch_need_not_be_contiguous(small: Card, rng: np.random.Generator) -> None:
    images = images_for(onnx.load(small.path), rng, 4)
    loaded = load(small, "binary")
    np.testing.assert_array_equal(loaded.run(images[::2]), loaded.run(images[::2].copy()))


def test_variants_that_do_not_exist_or_do_not_fit() -> None:
    with pytest.raises(UnknownVariantError, match=r"'ternary'.*binary, reference, full"):
        backend_for("ternary")


def test_a_variant_that_the_file_does_not_run_as_is_refused(small: Card, tmp_path: Path) -> None:
    with pytest.raises(VariantNotServedError, match="'twin'"):
        load(small, "full")
    full = write_model(tmp_path / "full", float_classifier(0), precision="full", name="whole")
    for variant in ("binary", "reference"):
        with pytest.raises(VariantNotServedError, match=f"'whole' cannot run as '{variant}': it has full"):
            load(full, variant)


# --- files that are broken --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["binary", "reference"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", r"model\.onnx .*(truncated)"),
        (b"<html>404 Not Found</html>", r"model\.onnx .*ONNX file"),
        (None, r"model\.onnx (does not exist|cannot be read)"),
    ],
    ids=["empty", "not a model", "missing"],
)
def test_a_broken_file_is_named(small: Card, variant: str, content: bytes | None, says: str) -> None:
    small.path.unlink()
    if content is not None:
        small.path.write_bytes(content)
    with pytest.raises(ModelBrokenError, match=says) as caught:
        load(small, variant)
    assert caught.value.detail.startswith(f"small ({variant}): ")
    assert caught.value.remedy


@pytest.mark.parametrize("variant", ["binary", "reference"])
def test_a_file_cut_short_anywhere_is_refused(small: Card, variant: str, rng: np.random.Generator) -> None:
    whole = small.path.read_bytes()
    for length in sorted(rng.integers(1, len(whole) - 1, 12)):
        small.path.write_bytes(whole[:length])
        with pytest.raises(ModelBrokenError, match=r"^small \("):
            load(small, variant)


def test_an_operator_that_is_not_there_is_named(tmp_path: Path, seed: int) -> None:
    model = bireal18_like(seed, size=(32, 32), widths=(32,), blocks=1)
    next(node for node in model.graph.node if node.op_type == "BConv").op_type = "BConv3D"
    # The card is made from the sound graph, the file from the other: only the exporter counts weights.
    card = write_model(tmp_path, bireal18_like(seed, size=(32, 32), widths=(32,), blocks=1))
    onnx.save(model, card.path)
    for variant, operator in (("binary", "bireal:BConv3D"), ("reference", r"bireal\.BConv3D")):
        with pytest.raises(ModelBrokenError, match=operator):
            load(card, variant)
    packed_as_full = write_model(
        tmp_path / "full", bireal18_like(seed, size=(32, 32), widths=(32,), blocks=1), precision="full"
    )
    with pytest.raises(ModelBrokenError, match=r"needs the operator bireal:Stem, which ONNX Runtime"):
        load(packed_as_full, "full")


def test_a_wrong_attribute_names_the_node_when_the_model_is_loaded(tmp_path: Path, seed: int) -> None:
    card = write_model(tmp_path, bireal18_like(seed, size=(32, 32), widths=(32,), blocks=1))
    model = onnx.load(card.path)
    node = next(node for node in model.graph.node if node.op_type == "BConv")
    next(a for a in node.attribute if a.name == "stride").i = 5
    onnx.save(model, card.path)
    with pytest.raises(ModelBrokenError, match=r"layer1\.0.*stride.*5"):
        load(card, "binary")


def _rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "picture"
    next(node for node in model.graph.node if node.op_type == "Stem").input[0] = "picture"


def _fix_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def _second_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(onnx.helper.make_tensor_value_info("stem", onnx.TensorProto.FLOAT, None))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_rename_input, r"input must be image tensor\(uint8\) .* it is picture"),
        (_fix_batch, r"input must be image .*'N'.* it is image tensor\(uint8\) \[1, 32, 32, 3\]"),
        (_second_output, r"output must be logits .*; it is logits .*; stem"),
    ],
    ids=["input name", "fixed batch", "two outputs"],
)
def test_a_graph_with_another_interface_is_refused(tmp_path: Path, change, says: str) -> None:
    card = write_model(tmp_path, bireal18_like(0, size=(32, 32), widths=(32,), blocks=1))
    model = onnx.load(card.path)
    change(model)
    onnx.save(model, card.path)
    with pytest.raises(ModelBrokenError, match=says):
        load(card, "binary")


def test_a_graph_with_other_classes_or_size_than_the_card_is_refused(tmp_path: Path) -> None:
    card = write_model(tmp_path, bireal18_like(0, size=(32, 32), widths=(32,), blocks=1, classes=10))
    onnx.save(bireal18_like(0, size=(32, 32), widths=(32,), blocks=1, classes=11), card.path)
    with pytest.raises(ModelBrokenError, match=r"output must be logits .*10\]; it is .*11\]"):
        load(card, "binary")
    onnx.save(bireal18_like(0, size=(32, 40), widths=(32,), blocks=1, classes=10), card.path)
    with pytest.raises(ModelBrokenError, match=r"input must be image .*32, 32, 3\]; it is .*32, 40, 3\]"):
        load(card, "binary")


def test_a_network_that_fails_while_it_runs_names_the_node(tmp_path: Path) -> None:
    """Shapes that only a run can know to be wrong: a residual of another size, with no shapes declared."""
    g = PackedGraphBuilder(0, 32, 32)
    x = g.bconv(g.stem(32), "first", 32)
    g.bconv(x, "second", 32, stride=2, residual="first")
    model = g.classifier("second", 4)
    del model.graph.value_info[:]
    card = write_model(tmp_path, bireal18_like(0, size=(32, 32), widths=(32,), blocks=1, classes=4))
    onnx.save(model, card.path)
    with pytest.raises(ModelBrokenError, match=r"small \(binary\).*second.*residual"):
        load(card, "binary").warm_up()


# --- the process around them ------------------------------------------------------------------------------------------


def in_a_new_process(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


LOAD_SCRIPT = """
import os, sys
from pathlib import Path
from service.backends import backend_for
from service.card import Card
from service.errors import ServiceError
try:
    model = backend_for(sys.argv[2]).load(Card.load(Path(sys.argv[1])), sys.argv[2], intra_op_threads=1)
    model.warm_up()
except ServiceError as error:
    print(type(error).__name__, error)
else:
    loaded = ["onnx" in sys.modules, "torch" in sys.modules]
    print(model.describe()["kernel"], *loaded, os.environ["ORT_DISABLE_TELEMETRY"])
"""


def test_loading_is_silent_and_only_the_reference_needs_onnx(small: Card) -> None:
    binary = in_a_new_process(LOAD_SCRIPT, str(small.directory), "binary")
    assert (binary.stderr, binary.returncode) == ("", 0)
    assert binary.stdout.split()[1:] == ["False", "False", "1"]
    reference = in_a_new_process(LOAD_SCRIPT, str(small.directory), "reference")
    assert (reference.stderr, reference.returncode) == ("", 0)
    assert reference.stdout.split() == ["onnxruntime", "True", "False", "1"]


def test_a_failure_is_reported_once_not_printed_by_onnxruntime_as_well(small: Card) -> None:
    small.path.write_bytes(b"broken")
    for variant in ("binary", "reference"):
        failed = in_a_new_process(LOAD_SCRIPT, str(small.directory), variant)
        assert failed.stderr == ""
        assert failed.stdout.startswith(f"ModelBrokenError small ({variant})")


def test_an_override_that_names_no_kernel_lists_those_that_run_here(small: Card) -> None:
    failed = in_a_new_process(LOAD_SCRIPT, str(small.directory), "binary", BIREAL_KERNEL="mmx")
    assert failed.stdout.startswith("OpUnavailableError")
    assert "BIREAL_KERNEL" in failed.stdout
    assert ", ".join(xnor_op.usable_kernels()) in failed.stdout
    assert failed.stderr == ""


def test_the_override_chooses_the_kernel(small: Card) -> None:
    chosen = in_a_new_process(LOAD_SCRIPT, str(small.directory), "binary", BIREAL_KERNEL="scalar")
    assert chosen.stdout.split()[0] == "scalar"


def test_a_missing_library_says_how_to_build_it(small: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xnor_op, "LIBRARY_NAME", "libnever_built.so")
    with pytest.raises(OpUnavailableError, match=r"libnever_built\.so.*make setup"):
        load(small, "binary")
    assert load(small, "reference").describe()["kernel"] == "onnxruntime", "the reference does not need the library"


def test_a_library_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / xnor_op.LIBRARY_NAME).write_bytes(b"not a library")
    monkeypatch.setattr(xnor_op, "library_path", lambda: tmp_path / xnor_op.LIBRARY_NAME)
    xnor_op._library.cache_clear()
    try:
        with pytest.raises(OpUnavailableError, match="cannot be loaded"):
            xnor_op.kernel_name()
    finally:
        xnor_op._library.cache_clear()


def test_the_chosen_kernel_is_the_fastest_usable_one() -> None:
    if os.environ.get(xnor_op.KERNEL_VARIABLE):
        pytest.skip("the kernel is chosen by the environment")
    assert xnor_op.kernel_name() == xnor_op.usable_kernels()[0]
    assert "scalar" in xnor_op.usable_kernels()
