"""What is broken is told by the names of models and files; where they lie on the server is for its log alone."""

import hashlib
import json
import logging
import shutil
import site
import sys
from pathlib import Path

import pytest
import yaml
from onnx import TensorProto, helper

from service import xnor_op
from service.backends import backend_for
from service.card import Card
from service.errors import OpUnavailableError, ServiceError
from service.registry import Registry
from service.settings import load_settings
from tests.api.conftest import running
from tests.pictures import encode, photo
from tests.tiny_zoo import colours_graph, write_zoo

pytestmark = pytest.mark.anyio

PICTURE = encode(photo(), "JPEG")
MODELS = ("tiny-bireal", "tiny-bireal-depth", "tiny-colours", "tiny-ramp")


@pytest.fixture(autouse=True)
def log_level(caplog):
    caplog.set_level(logging.INFO)


def edit_card(folder: Path, **changes) -> None:
    card = yaml.safe_load((folder / "card.yaml").read_text())
    (folder / "card.yaml").write_text(yaml.safe_dump(card | changes))


def put(folder: Path, content: bytes) -> None:
    """A model file that its card knows."""
    (folder / "model.onnx").write_bytes(content)
    edit_card(folder, sha256=hashlib.sha256(content).hexdigest())


def remove_model_file(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def make_model_file_a_folder(folder: Path) -> None:
    remove_model_file(folder)
    (folder / "model.onnx").mkdir()


def unknown_operator(folder: Path) -> None:
    model = colours_graph()
    model.graph.node[0].op_type = "Teleport"
    put(folder, model.SerializeToString())


def weights_in_a_missing_file(folder: Path) -> None:
    model = colours_graph()
    tensor = model.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    put(folder, model.SerializeToString())


def shapes_that_do_not_fit(folder: Path) -> None:
    model = colours_graph()
    model.graph.node.append(helper.make_node("MatMul", ["x", "bias"], ["y"]))
    model.graph.initializer[2].dims[:] = [4]
    model.graph.initializer[2].raw_data = b"\0" * 16
    put(folder, model.SerializeToString())


def remove_card(folder: Path) -> None:
    (folder / "card.yaml").unlink()


MISHAPS = {
    "no card": remove_card,
    "card is a folder": lambda folder: (remove_card(folder), (folder / "card.yaml").mkdir()),
    "card is no text": lambda folder: (folder / "card.yaml").write_bytes(b"\xff\xfe\0"),
    "card is no yaml": lambda folder: (folder / "card.yaml").write_text("name: ["),
    "card is a list": lambda folder: (folder / "card.yaml").write_text("[]"),
    "card without fields": lambda folder: (folder / "card.yaml").write_text("{}"),
    "card of another model": lambda folder: edit_card(folder, name="another"),
    "no model file": remove_model_file,
    "model file is a folder": make_model_file_a_folder,
    "model file was changed": lambda folder: (folder / "model.onnx").write_bytes(b"changed"),
    "no graph": lambda folder: put(folder, b"no graph"),
    "empty graph": lambda folder: put(folder, b""),
    "cut short": lambda folder: put(folder, (folder / "model.onnx").read_bytes()[:-100]),
    "unknown operator": unknown_operator,
    "no external weights": weights_in_a_missing_file,
    "shapes": shapes_that_do_not_fit,
}


async def told(client) -> str:
    """Everything that a client can get to hear about models."""
    texts = [(await client.get(path)).text for path in ("/readyz", "/models", "/metrics", "/healthz")]
    for path in ("/classify", "/depth", "/compare/classify", "/compare/depth"):
        task = path.rpartition("/")[2]
        names = {"classify": ("tiny-bireal", "tiny-colours"), "depth": ("tiny-bireal-depth", "tiny-ramp")}[task]
        texts.append((await client.post(path, content=PICTURE)).text)
        for name in names:
            for variant in ("binary", "reference", "full") if "compare" not in path else ():
                response = await client.post(f"{path}?model={name}&variant={variant}", content=PICTURE)
                texts.append(json.dumps(dict(response.headers)) + response.text)
    return "\n".join(texts)


def folders(zoo: Path) -> set[str]:
    """Where things lie on this machine."""
    root = Path(__file__).resolve().parents[2]
    return {str(zoo), str(root), sys.prefix, *site.getsitepackages(), "/onnxruntime_src"}


@pytest.mark.parametrize("mishap", MISHAPS)
@pytest.mark.parametrize("broken", ["tiny-bireal", "tiny-colours"])
async def test_a_broken_model(anyio_backend, tmp_path, caplog, mishap, broken):
    zoo = write_zoo(tmp_path / "a folder" / "zoo")
    folder = zoo / broken / "1"
    MISHAPS[mishap](folder)
    async with running(zoo) as client:
        text = await told(client)
        assert broken in text
        assert [place for place in folders(zoo) if place in text] == []
    assert str(folder) in caplog.text


@pytest.mark.parametrize("state", ["missing", "empty", "a file", "without a depth model"])
async def test_a_model_folder_that_serves_nothing(anyio_backend, tmp_path, caplog, state):
    zoo = tmp_path / "zoo"
    if state == "empty":
        zoo.mkdir()
    elif state == "a file":
        zoo.write_bytes(b"")
    elif state != "missing":
        write_zoo(zoo)
        for name in ("tiny-ramp", "tiny-bireal-depth"):
            shutil.rmtree(zoo / name)
    async with running(zoo) as client:
        text = await told(client)
        assert "BIREAL_MODEL_DIR" in text or "model folder" in text
        assert [place for place in folders(zoo) if place in text] == []
    assert str(zoo) in caplog.text or state == "without a depth model"


async def test_a_runtime_with_a_fault(anyio_backend, tmp_path, caplog):
    class Exploding:
        name = "exploding"

        def load(self, card, variant, **_):
            raise RuntimeError(f"{card.path}: a fault in {sys.prefix}")

    zoo = write_zoo(tmp_path / "zoo")
    registry = Registry(
        load_settings({"model_dir": zoo}), find_backend=lambda v: Exploding() if v == "full" else backend_for(v)
    )
    async with running(zoo, registry) as client:
        text = await told(client)
        assert "RuntimeError" in text
        assert [place for place in folders(zoo) if place in text] == []
    assert f"a fault in {sys.prefix}" in caplog.text


@pytest.mark.parametrize("content", [b"", b"no library", None], ids=["empty", "no library", "missing"])
def test_an_operator_that_does_not_load(tmp_path, monkeypatch, content):
    library = tmp_path / "libbireal_op.so"
    if content is not None:
        library.write_bytes(content)
    xnor_op._library.cache_clear()
    monkeypatch.setattr(xnor_op, "library_path", lambda: library)
    try:
        with pytest.raises(OpUnavailableError) as caught:
            xnor_op.kernel_name()
    finally:
        xnor_op._library.cache_clear()
    assert str(tmp_path) not in str(caught.value)
    assert "libbireal_op.so" in str(caught.value)


@pytest.mark.parametrize("content", [b"no library", None], ids=["no library", "missing"])
def test_an_operator_that_does_not_register(zoo, tmp_path, monkeypatch, content):
    library = tmp_path / "libbireal_op.so"
    if content is not None:
        library.write_bytes(content)
    monkeypatch.setattr(xnor_op, "kernel_name", lambda: "scalar")
    monkeypatch.setattr(xnor_op, "library_path", lambda: library)
    with pytest.raises(ServiceError) as caught:
        backend_for("binary").load(Card.load(zoo / "tiny-bireal" / "1"), "binary", intra_op_threads=1)
    assert str(tmp_path) not in str(caught.value)
    assert "libbireal_op.so" in str(caught.value)
