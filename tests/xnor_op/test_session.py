"""The ops inside real sessions: mistakes at creation, in-place residuals, concurrent runs, a chain of ops."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.xnor_op import naive, opkit

FLOAT, INT32, UINT8 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT8


def small_bconv(**changes: object) -> bytes:
    """One BConv of 64 -> 32 channels; `changes` replaces parts of it."""
    parts: dict[str, object] = {
        "attributes": {"channels": 64, "kernel": 3, "stride": 1},
        "weight": np.zeros((32, 3, 3, 2), np.int32),
        "scale": np.ones(32, np.float32),
        "bias": np.zeros(32, np.float32),
        "bits": opkit.value("bits", INT32, ["N", "H", "W", 2]),
        "residual": None,
        "inputs": ["bits", "weight", "scale", "bias"],
        "variable": [],
    }
    parts.update(changes)
    inputs = [parts["bits"]] + [parts["residual"]] * (parts["residual"] is not None)
    constants = {name: parts[name] for name in ("weight", "scale", "bias") if name not in parts["variable"]}
    inputs += [opkit.value(name, opkit.onnx_type(parts[name]), list(parts[name].shape)) for name in parts["variable"]]
    names = parts["inputs"] + (["residual"] if parts["residual"] is not None else [])
    node = opkit.node("BConv", names, ["y"], **parts["attributes"])
    return opkit.model([node], inputs, [opkit.value("y", FLOAT, None)], constants)


def test_the_unchanged_model_loads() -> None:
    session = opkit.session(small_bconv())
    assert [output.name for output in session.get_outputs()] == ["y"]


BAD_BCONV = {
    "no attribute": ({"attributes": {"kernel": 3, "stride": 1}}, "attribute 'channels' is missing"),
    "kernel 5": ({"attributes": {"channels": 64, "kernel": 5, "stride": 1}}, "'kernel' is 5; give 1 or 3"),
    "stride 3": ({"attributes": {"channels": 64, "kernel": 3, "stride": 3}}, "'stride' is 3; give a value from 1 to 2"),
    "no channels": ({"attributes": {"channels": 0, "kernel": 3, "stride": 1}}, "'channels' is 0"),
    "other channels": ({"attributes": {"channels": 96, "kernel": 3, "stride": 1}}, "'bits' has shape"),
    "other kernel": ({"attributes": {"channels": 64, "kernel": 1, "stride": 1}}, "'weight' has shape [32, 3, 3, 2]"),
    "float weight": ({"weight": np.zeros((32, 3, 3, 2), np.float32)}, "'weight' is float32; give int32"),
    "flat weight": ({"weight": np.zeros((32, 18), np.int32)}, "'weight' has shape [32, 18]"),
    "variable weight": ({"variable": ["weight"]}, "'weight' is not constant; store it as an initializer"),
    "variable scale": ({"variable": ["scale"]}, "'scale' is not constant"),
    "short scale": ({"scale": np.ones(31, np.float32)}, "'scale' has shape [31]; give float32 [O] = [32]"),
    "double scale": ({"scale": np.ones(32, np.float64)}, "'scale' is float64; give float32"),
    "long bias": ({"bias": np.ones(33, np.float32)}, "'bias' has shape [33]"),
    "float bits": ({"bits": opkit.value("bits", FLOAT, ["N", "H", "W", 2])}, "'bits' is float32; give int32"),
    "flat bits": ({"bits": opkit.value("bits", INT32, ["N", "H", 2])}, "'bits' has shape [?, ?, 2]"),
    "residual of other channels": (
        {"residual": opkit.value("residual", FLOAT, ["N", "H", "W", 64])},
        "'residual' has shape [?, ?, ?, 64]",
    ),
    "integer residual": (
        {"residual": opkit.value("residual", INT32, ["N", "H", "W", 32])},
        "'residual' is int32; give float32",
    ),
}


@pytest.mark.parametrize("name", BAD_BCONV)
def test_bad_bconv_is_refused_at_creation(name: str) -> None:
    changes, message = BAD_BCONV[name]
    with pytest.raises(Exception) as raised:  # noqa: PT011 - the binding raises a class of its own for each status
        opkit.session(small_bconv(**changes))
    assert "bireal.BConv node 'bconv_y'" in str(raised.value)
    assert message in str(raised.value)


def test_weight_bits_beyond_the_channels_are_refused() -> None:
    weight = np.full((32, 3, 3, 2), -1, np.int32)
    with pytest.raises(Exception, match="bits set beyond channel 40"):
        opkit.session(small_bconv(attributes={"channels": 40, "kernel": 3, "stride": 1}, weight=weight))


def external(serialized: bytes, folder: Path, offset: int) -> str:
    """The model with its initializers in a file beside it, each `offset` bytes behind a page's beginning."""
    graph = onnx.load_from_string(serialized)
    with (folder / "weights").open("wb") as file:
        for i, tensor in enumerate(graph.graph.initializer):
            file.seek(i * 4096 + offset)
            file.write(tensor.raw_data)
            place = {"location": "weights", "offset": str(file.tell() - len(tensor.raw_data))}
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.extend(onnx.StringStringEntryProto(key=k, value=v) for k, v in place.items())
    path = folder / "model.onnx"
    path.write_bytes(graph.SerializeToString())
    return str(path)


def test_weights_that_begin_within_an_element_are_refused(tmp_path: Path) -> None:
    opkit.session(external(small_bconv(), tmp_path, 4))
    with pytest.raises(Exception, match=r"bconv_y.* tensor start in the middle of an element; store"):
        opkit.session(external(small_bconv(), tmp_path, 2))


def small_stem(**changes: object) -> bytes:
    constants: dict[str, np.ndarray] = {
        "weight": np.zeros((16, 7, 7, 3), np.int16),
        "scale": np.ones(16, np.float32),
        "bias": np.zeros(16, np.float32),
        "mean": np.zeros(3, np.float32),
    }
    attributes = {"stride": 2, "pool": 1} | changes.pop("attributes", {})
    image = changes.pop("image", opkit.value("image", UINT8, ["N", "H", "W", 3]))
    constants.update(changes)
    node = opkit.node("Stem", ["image", *constants], ["y"], **attributes)
    return opkit.model([node], [image], [opkit.value("y", FLOAT, None)], constants)


BAD_STEM = {
    "stride 4": ({"attributes": {"stride": 4}}, "'stride' is 4"),
    "pool 2": ({"attributes": {"pool": 2}}, "'pool' is 2; give a value from 0 to 1"),
    "float image": ({"image": opkit.value("image", FLOAT, ["N", "H", "W", 3])}, "'image' is float32; give uint8"),
    "grey image": ({"image": opkit.value("image", UINT8, ["N", "H", "W", 1])}, "'image' has shape [?, ?, ?, 1]"),
    "NCHW weight": ({"weight": np.zeros((16, 3, 7, 7), np.int16)}, "'weight' has shape [16, 3, 7, 7]"),
    "even filter": ({"weight": np.zeros((16, 4, 4, 3), np.int16)}, "odd side K of at most 7"),
    "large filter": ({"weight": np.zeros((16, 9, 9, 3), np.int16)}, "odd side K of at most 7"),
    "int8 weight": ({"weight": np.zeros((16, 7, 7, 3), np.int8)}, "'weight' is int8; give float32 or int16"),
    "mean of four": ({"mean": np.zeros(4, np.float32)}, "'mean' has shape [4]"),
}


@pytest.mark.parametrize("name", BAD_STEM)
def test_bad_stem_is_refused_at_creation(name: str) -> None:
    changes, message = BAD_STEM[name]
    with pytest.raises(Exception) as raised:  # noqa: PT011
        opkit.session(small_stem(**changes))
    assert "bireal.Stem node 'stem_y'" in str(raised.value)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("op", "dtype", "shape", "message"),
    [
        ("Pack", INT32, [1, 2, 2, 8], "'x' is int32; give float32"),
        ("Pack", FLOAT, [2, 8], "'x' has shape [2, 8]; give float32 [N, H, W, C]"),
        ("AvgPool2", TensorProto.DOUBLE, [1, 2, 2, 8], "'x' is float64; give float32"),
        ("AvgPool2", FLOAT, [2, 8, 4], "'x' has shape [2, 8, 4]"),
    ],
)
def test_bad_input_type_or_rank_is_refused_at_creation(op: str, dtype: int, shape: list[int], message: str) -> None:
    graph = opkit.model(
        [opkit.node(op, ["x"], ["out"])],
        [opkit.value("x", dtype, shape)],
        [opkit.value("out", INT32 if op == "Pack" else FLOAT, None)],
    )
    with pytest.raises(Exception) as raised:  # noqa: PT011
        opkit.session(graph)
    assert f"bireal.{op} node '{op.lower()}_out'" in str(raised.value)
    assert message in str(raised.value)


@pytest.mark.parametrize("character", ["a", "é", "€", "𝛼"])
@pytest.mark.parametrize("length", range(600, 604))
def test_a_long_name_hides_neither_the_mistake_nor_is_cut_within_a_character(character: str, length: int) -> None:
    pack = opkit.node("Pack", ["x"], ["out"])
    pack.name = "a" * (length % 4) + character * length
    graph = opkit.model([pack], [opkit.value("x", INT32, [1, 2, 2, 8])], [opkit.value("out", INT32, None)])
    with pytest.raises(Exception, match=rf"node '{pack.name[:40]}.*\.\.\.': input 'x' is int32; give float32"):
        opkit.session(graph)


def test_mistakes_only_visible_at_run_time_name_the_node() -> None:
    run = opkit.session(small_bconv(residual=opkit.value("residual", FLOAT, None))).run
    bits = np.zeros((1, 6, 6, 2), np.int32)
    with pytest.raises(Exception, match=r"bconv_y.*'residual' has shape \[1, 4, 5, 32\]; give .* \[1, 4, 4, 32\]"):
        run(None, {"bits": bits, "residual": np.zeros((1, 4, 5, 32), np.float32)})
    with pytest.raises(Exception, match=r"'bits' has shape .* with H and W of at least 1"):
        run(None, {"bits": bits[:, :2], "residual": np.zeros((1, 4, 4, 32), np.float32)})
    (y,) = run(None, {"bits": bits, "residual": np.zeros((1, 4, 4, 32), np.float32)})  # the session is still alive
    assert y[0, 1, 1, 0] == 9 * 64


class Chain:
    """Stem -> two BConv blocks with shortcuts -> AvgPool2 shortcut -> BConv of stride 2: a small network."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, *, declare: bool = True) -> None:
        self.channels = 64
        self.image_shape = (height, width, 3)
        self.stem = rng.integers(-3000, 3000, (64, 7, 7, 3)).astype(np.int16)
        self.weights = [np.where(rng.random((64, 3, 3, 64)) < 0.5, -1, 1).astype(np.int32) for _ in range(3)]
        self.scales = [(rng.random(64) * 0.1).astype(np.float32) for _ in range(4)]
        self.biases = [rng.standard_normal(64).astype(np.float32) for _ in range(4)]
        self.scales[0] = np.full(64, 1e-5, np.float32)
        self.mean = np.array([120, 110, 100], np.float32)
        self.rows = ((height - 1) // 2) // 2 + 1
        self.columns = ((width - 1) // 2) // 2 + 1
        self.model = self.build(declare)

    def build(self, declare: bool) -> bytes:
        constants: dict[str, np.ndarray] = {"sw": self.stem, "mean": self.mean}
        for i in range(4):
            constants |= {f"s{i}": self.scales[i], f"b{i}": self.biases[i]}
        for i in range(3):
            constants[f"w{i + 1}"] = naive.pack_words(self.weights[i])
        same = {"channels": 64, "kernel": 3, "stride": 1}
        nodes = [
            opkit.node("Stem", ["image", "sw", "s0", "b0", "mean"], ["f0", "p0"], stride=2, pool=1),
            opkit.node("BConv", ["p0", "w1", "s1", "b1", "f0"], ["f1", "p1"], **same),
            opkit.node("BConv", ["p1", "w2", "s2", "b2", "f1"], ["f2", "p2"], **same),
            opkit.node("AvgPool2", ["f2"], ["shortcut"]),
            opkit.node("BConv", ["p2", "w3", "s3", "b3", "shortcut"], ["f3"], channels=64, kernel=3, stride=2),
        ]
        h, w = self.rows, self.columns
        half = [(h + 1) // 2, (w + 1) // 2, 64]
        declared = [opkit.value(f"f{i}", FLOAT, ["N", h, w, 64]) for i in range(3)]
        declared += [opkit.value(f"p{i}", INT32, ["N", h + 2, w + 2, 2]) for i in range(3)]
        declared.append(opkit.value("shortcut", FLOAT, ["N", *half]))
        return opkit.model(
            nodes,
            [opkit.value("image", UINT8, ["N", *self.image_shape])],
            [opkit.value("f3", FLOAT, ["N", *half])],
            constants,
            declared if declare else (),
        )

    def expected(self, image: np.ndarray) -> np.ndarray:
        """float32 all the way, from the operator's own stem (its rounding is tested elsewhere)."""
        stem = opkit.model(
            [opkit.node("Stem", ["image", "sw", "s0", "b0", "mean"], ["f0"], stride=2, pool=1)],
            [opkit.value("image", UINT8, ["N", *self.image_shape])],
            [opkit.value("f0", FLOAT, ["N", self.rows, self.columns, 64])],
            {"sw": self.stem, "mean": self.mean, "s0": self.scales[0], "b0": self.biases[0]},
        )
        f = opkit.session(stem).run(None, {"image": image})[0]
        for i in (1, 2):
            f = naive.bconv(naive.signs(f), self.weights[i - 1], self.scales[i], self.biases[i], 1, f)
        return naive.bconv(naive.signs(f), self.weights[2], self.scales[3], self.biases[3], 2, naive.avg_pool(f))

    def image(self, rng: np.random.Generator, batch: int) -> np.ndarray:
        return rng.integers(0, 256, (batch, *self.image_shape)).astype(np.uint8)


@pytest.mark.parametrize("size", [(64, 64), (33, 91), (32, 32), (3, 5)])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("declare", [True, False])
def test_chain_of_ops(size: tuple[int, int], threads: int, declare: bool, rng: np.random.Generator) -> None:
    """With declared shapes ONNX Runtime reuses buffers and adds residuals in place; without, it does neither."""
    chain = Chain(rng, *size, declare=declare)
    session = opkit.session(chain.model, threads)
    for batch in (1, 3, 2):  # buffers are reused by later runs: stale borders would show
        image = chain.image(rng, batch)
        np.testing.assert_array_equal(session.run(None, {"image": image})[0], chain.expected(image))


@pytest.mark.parametrize("threads", [1, 2])
def test_concurrent_runs_of_one_session(threads: int, rng: np.random.Generator) -> None:
    chain = Chain(rng, 75, 60)
    session = opkit.session(chain.model, threads)
    images = [chain.image(rng, 1 + i % 3) for i in range(8)]
    expected = [chain.expected(image) for image in images]

    def work(worker: int) -> None:
        for turn in range(12):
            i = (worker + turn) % len(images)
            np.testing.assert_array_equal(session.run(None, {"image": images[i]})[0], expected[i])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_two_sessions_share_the_library(rng: np.random.Generator) -> None:
    first, second = Chain(rng, 32, 32), Chain(rng, 40, 24)
    sessions = [opkit.session(first.model), opkit.session(second.model)]
    del sessions[0]
    image = second.image(rng, 1)
    np.testing.assert_array_equal(sessions[0].run(None, {"image": image})[0], second.expected(image))


# VmHWM and not getrusage: a child's ru_maxrss starts at its parent's, which hides the child's own peak in a large run.
PEAK_MEMORY = """
import re, sys
from pathlib import Path
import numpy as np
import onnxruntime as ort

def peak_kib():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text()).group(1))

options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.register_custom_ops_library(sys.argv[1])
session = ort.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
before = peak_kib()
session.run(None, {"bits": np.zeros((1, 514, 514, 1), np.int32)})
print((peak_kib() - before) * 1024)
"""


def test_residual_is_reused_in_place(tmp_path: Path) -> None:
    """y takes its residual's buffer where shapes are declared: the peak is one float map (33 MB) instead of two."""
    side, channels = 512, 32
    constants = {
        "w": np.zeros((channels, 1, 1, 1), np.int32),
        "s": np.ones(channels, np.float32),
        "b": np.zeros(channels, np.float32),
    }
    geometry = {"channels": channels, "kernel": 1, "stride": 1}
    nodes = [opkit.node("BConv", ["bits", "w", "s", "b"], ["f0", "p0"], **geometry)]
    nodes += [
        opkit.node("BConv", [f"p{i - 1}", "w", "s", "b", f"f{i - 1}"], [f"f{i}", f"p{i}"], **geometry)
        for i in range(1, 4)
    ]
    nodes.append(opkit.node("AvgPool2", ["f3"], ["out"]))
    declared = [opkit.value(f"f{i}", FLOAT, ["N", side, side, channels]) for i in range(4)]
    declared += [opkit.value(f"p{i}", INT32, ["N", side + 2, side + 2, 1]) for i in range(4)]
    peaks = {}
    for name, value_info in {"declared": declared, "unknown": []}.items():
        graph = opkit.model(
            nodes,
            [opkit.value("bits", INT32, ["N", side + 2, side + 2, 1])],
            [opkit.value("out", FLOAT, ["N", side // 2, side // 2, channels])],
            constants,
            value_info,
        )
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(graph)
        command = [sys.executable, "-c", PEAK_MEMORY, opkit.library(), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[name] = int(done.stdout) / (side * side * channels * 4)
    assert peaks["declared"] < peaks["unknown"] - 0.7, peaks
