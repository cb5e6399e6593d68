"""Networks whose weights lie in files beside theirs: found without `onnx`, wherever in the graph they are."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from service.errors import ModelBrokenError
from service.onnx_file import DATA_LOCATION, EXTERNAL, MESSAGES, NotOnnxError, has_external_data
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


@pytest.mark.parametrize(
    "content",
    [
        b"not really a network",
        b"\x3a\xff\xff\xff\xff\x0f",  # longer than the file
        b"\xff" * 20,  # an endless number
        b"\x3b",  # a group that does not end
        b"\x3b\x44",  # ... that ends as another one
        b"\x3c",  # ... that does not begin
        b"\x09\x00",  # a part of a number of eight bytes
        b"\x00\x00",  # the field 0
    ],
)
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """Protobuf may read bytes that this code cannot, so nothing is known about their weights."""
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(DecodeError):
        onnx.ModelProto.FromString(content)
    with pytest.raises(NotOnnxError, match="not a protobuf message"):
        has_external_data(tmp_path / "model.onnx")
    card = classify_card(sha256=hashlib.sha256(content).hexdigest()).write(tmp_path)
    with pytest.raises(
        ModelBrokenError, match=r"model\.onnx is not an ONNX file: its bytes are not a protobuf message"
    ):
        card.verify_file()


def varint(number: int) -> bytes:
    return bytes([number & 0x7F | 0x80]) + varint(number >> 7) if number > 0x7F else bytes([number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


#: A field 100, unknown to ONNX, of the old wire format for nested messages; within it a number and another such field.
GROUP = varint(100 << 3 | 3) + b"\x70\x01" + varint(7 << 3 | 3) + varint(7 << 3 | 4) + varint(100 << 3 | 4)


@pytest.mark.parametrize("form", ["group before", "group within", "wide value", "wide tag"])
def test_it_is_found_in_every_form_that_protobuf_reads(tmp_path: Path, form: str) -> None:
    tensor = external_tensor().SerializeToString()
    plain = varint(DATA_LOCATION << 3) + varint(EXTERNAL)
    assert plain in tensor
    before = b""
    if form == "group before":
        before = GROUP
    elif form == "group within":
        tensor = GROUP + tensor
    elif form == "wide value":
        tensor = tensor.replace(plain, plain[:1] + varint(2**32 + EXTERNAL))
    else:
        tensor = tensor.replace(plain, varint(2**32 + (DATA_LOCATION << 3)) + plain[1:])
    file = tmp_path / "model.onnx"
    file.write_bytes(before + colours_graph().SerializeToString() + field(7, field(5, tensor)))
    assert has_external_data(file)
    if form != "wide tag":  # versions of protobuf differ: some refuse it
        assert onnx.ModelProto.FromString(file.read_bytes()).graph.initializer[-1].data_location == EXTERNAL


def test_unknown_groups_alone_are_no_fault(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(GROUP + colours_graph().SerializeToString() + GROUP)
    assert not has_external_data(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").write_bytes(b"")  # a message without fields, to protobuf
    assert not has_external_data(tmp_path / "model.onnx")


def nested(levels: int) -> bytes:
    """A graph in a node's attribute in a graph ...: three levels each time."""
    content = b""
    for _ in range(levels // 3):
        content = field(1, field(5, field(6, content)))
    return field(7, content)


def test_nesting_ends_where_protobufs_does(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(nested(99))
    onnx.ModelProto.FromString(nested(99))
    assert not has_external_data(file)
    for deeper in (nested(102), nested(3000), varint(100 << 3 | 3) * 3000 + varint(100 << 3 | 4) * 3000):
        file.write_bytes(deeper)
        with pytest.raises(DecodeError):
            onnx.ModelProto.FromString(deeper)
        with pytest.raises(NotOnnxError, match="nested more than 100 levels"):
            has_external_data(file)


CUT_SHORT = """
import os, sys
from pathlib import Path
from service import onnx_file
whole = onnx_file._varint
def cutting(*arguments):
    os.truncate(sys.argv[1], 0)
    return whole(*arguments)
onnx_file._varint = cutting
try:
    onnx_file.has_external_data(Path(sys.argv[1]))
except onnx_file.NotOnnxError as error:
    print("refused:", error)
"""


def test_a_file_that_is_cut_short_meanwhile_does_not_kill_the_process(tmp_path: Path) -> None:
    """It did while the file was mapped into memory: the system answers access beyond the end with SIGBUS."""
    file = tmp_path / "model.onnx"
    file.write_bytes(field(100, bytes(30)) * 10_000)
    ended = subprocess.run([sys.executable, "-c", CUT_SHORT, file], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "refused: its bytes are not a protobuf message\n"), ended.stderr


def test_the_fields_are_those_of_onnx() -> None:
    """Every field of these messages that holds one of them, so that a new version's is not overlooked."""
    for name, fields in MESSAGES.items():
        message = getattr(onnx, name).DESCRIPTOR
        nested = {field.number: field.message_type.name for field in message.fields if field.message_type is not None}
        assert fields == {number: inner for number, inner in nested.items() if inner in MESSAGES}
    location = TensorProto.DESCRIPTOR.fields_by_name["data_location"]
    assert (location.number, TensorProto.EXTERNAL) == (DATA_LOCATION, EXTERNAL)
