"""Networks whose weights lie in files beside theirs: found without `onnx`, wherever in the graph they are."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.errors import ModelBrokenError
from service.onnx_file import DATA_LOCATION, EXTERNAL, MESSAGES, has_external_data
from tests.cards import classify_card
from tests.tiny_zoo import colours_graph


def test_a_checksum_does_not_cover_weights_beside_the_file(tmp_path: Path) -> None:
    onnx.save(colours_graph(), tmp_path / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert (tmp_path / "w.bin").stat().st_size > 0
    digest = hashlib.sha256((tmp_path / "model.onnx").read_bytes()).hexdigest()
    card = classify_card(sha256=digest).write(tmp_path)
    with pytest.raises(ModelBrokenError, match="weights in other files") as caught:
        card.verify_file()
    assert "save_as_external_data=False" in caught.value.remedy


def test_weights_within_the_file_are_taken(tmp_path: Path) -> None:
    content = colours_graph().SerializeToString()
    (tmp_path / "model.onnx").write_bytes(content)
    card = classify_card(sha256=hashlib.sha256(content).hexdigest()).write(tmp_path)
    card.verify_file()  # raises where it does not
    assert onnx.load(tmp_path / card.file).graph.initializer


def external_tensor() -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "zeros")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    return tensor


def in_a_constant(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["zeros"], value=external_tensor()))


def in_a_branch(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([], "branch", [], [], [external_tensor()])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch))


def in_a_function(model: onnx.ModelProto) -> None:
    constant = helper.make_node("Constant", [], ["y"], value=external_tensor())
    model.functions.append(helper.make_function("ours", "F", [], ["y"], [constant], []))


def in_a_sparse_tensor(model: onnx.ModelProto) -> None:
    indices = numpy_helper.from_array(np.zeros(3, np.int64), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(external_tensor(), indices, [9]))


@pytest.mark.parametrize("add", [in_a_constant, in_a_branch, in_a_function, in_a_sparse_tensor])
def test_it_is_found_wherever_a_tensor_may_be(tmp_path: Path, add) -> None:
    model = colours_graph()
    file = tmp_path / "model.onnx"
    file.write_bytes(model.SerializeToString())
    assert not has_external_data(file)
    add(model)
    file.write_bytes(model.SerializeToString())
    assert has_external_data(file)


@pytest.mark.parametrize("content", [b"", b"not really a network", b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 20, b"\x3b"])
def test_what_is_no_onnx_file_is_left_to_onnx_runtime(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    assert not has_external_data(tmp_path / "model.onnx")


def test_the_fields_are_those_of_onnx() -> None:
    """Every field of these messages that holds one of them, so that a new version's is not overlooked."""
    for name, fields in MESSAGES.items():
        message = getattr(onnx, name).DESCRIPTOR
        nested = {field.number: field.message_type.name for field in message.fields if field.message_type is not None}
        assert fields == {number: inner for number, inner in nested.items() if inner in MESSAGES}
    location = TensorProto.DESCRIPTOR.fields_by_name["data_location"]
    assert (location.number, TensorProto.EXTERNAL) == (DATA_LOCATION, EXTERNAL)
