"""ort_abi.h declares parts of ONNX Runtime's C ABI by hand: compare them with the official headers.

The headers are not needed to build and no wheel has them; Debian's libonnxruntime-dev does. The comparison with them
looks in BIREAL_ORT_INCLUDE and in the usual places, and is skipped where they are absent; the one with what is recorded
of them (ort_abi.yaml) is made everywhere.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.xnor_op import opkit

HEADER = "onnxruntime_c_api.h"
PLACES = ["/usr/include/onnxruntime", "/usr/include/onnxruntime/core/session", "/usr/local/include/onnxruntime"]
ABI = (opkit.SOURCE / "ort_abi.h").read_text(encoding="utf-8")
RECORDED: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("ort_abi.yaml").read_text(encoding="utf-8"))
POINTER_BYTES = 8  # of the recorded offsets
CONSTANTS = {
    "kOrtFail": "ORT_FAIL",
    "kOrtInvalidArgument": "ORT_INVALID_ARGUMENT",
    "kOrtRequired": "INPUT_OUTPUT_REQUIRED",
    "kOrtOptional": "INPUT_OUTPUT_OPTIONAL",
    "kOrtAnyType": "ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED",
    "kOrtFloat": "ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT",
    "kOrtInt32": "ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32",
}


def slots() -> dict[str, int]:
    """Function -> position, as ort_abi.h states them."""
    found = re.findall(r"^  X\((\w+), (\d+),", ABI, re.MULTILINE)
    assert len(found) > 20
    return {name: int(position) for name, position in found}


def custom_op_members() -> list[str]:
    """Callbacks of our OrtCustomOp, in order."""
    body = re.search(r"struct OrtCustomOp \{(.*?)\n\};", ABI, re.DOTALL)
    assert body is not None
    return re.findall(r"\(\*(\w+)\)", body.group(1))


def constants() -> dict[str, int]:
    """Values that ort_abi.h gives, by the official name."""
    ours = {name: int(text) for name, text in re.findall(r"constexpr \w+ (kOrt\w+) = (\d+);", ABI)}
    return {official: ours[name] for name, official in CONSTANTS.items()}


def include_directory() -> Path:
    """Where the official header is, or skip."""
    for place in [os.environ.get("BIREAL_ORT_INCLUDE", ""), *PLACES]:
        if place and (Path(place) / HEADER).is_file():
            return Path(place)
    pytest.skip(f"{HEADER} is not installed (Debian: libonnxruntime-dev; or set BIREAL_ORT_INCLUDE)")


def compile_and_run(source: str, tmp_path: Path) -> str:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    (tmp_path / "layout.cc").write_text(source, encoding="utf-8")
    program = tmp_path / "layout"
    command = [compiler, f"-I{include_directory()}", str(tmp_path / "layout.cc"), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout


def test_slots_are_those_recorded() -> None:
    assert {name: position * POINTER_BYTES for name, position in slots().items()} == RECORDED["offsets"]


def test_custom_op_layout_is_the_recorded_one() -> None:
    members = custom_op_members()
    assert members == RECORDED["custom_op"][: len(members)]


def test_constants_are_those_recorded() -> None:
    assert constants() == RECORDED["constants"]


def test_slots_match_the_official_header(tmp_path: Path) -> None:
    names = list(slots())
    prints = "\n".join(f'  printf("{n} %zu\\n", offsetof(OrtApi, {n}) / sizeof(void*));' for n in names)
    source = f'#include <cstddef>\n#include <cstdio>\n#include "{HEADER}"\nint main() {{\n{prints}\n}}\n'
    official = dict(line.split() for line in compile_and_run(source, tmp_path).splitlines())
    assert {name: int(official[name]) for name in names} == slots()


def test_custom_op_layout_matches_the_official_header(tmp_path: Path) -> None:
    members = custom_op_members()
    prints = "\n".join(f'  printf("{n} %zu\\n", offsetof(OrtCustomOp, {n}) / sizeof(void*));' for n in members)
    source = f'#include <cstddef>\n#include <cstdio>\n#include "{HEADER}"\nint main() {{\n{prints}\n}}\n'
    official = dict(line.split() for line in compile_and_run(source, tmp_path).splitlines())
    # `version` is the first member, so callback i sits i + 1 pointers in.
    assert {name: int(place) for name, place in official.items()} == {n: i + 1 for i, n in enumerate(members)}


def test_constants_match_the_official_header(tmp_path: Path) -> None:
    prints = "\n".join(f'  printf("{name} %d\\n", (int){name});' for name in CONSTANTS.values())
    source = f'#include <cstdio>\n#include "{HEADER}"\nint main() {{\n{prints}\n}}\n'
    official = dict(line.split() for line in compile_and_run(source, tmp_path).splitlines())
    assert {name: int(text) for name, text in official.items()} == constants()


def test_only_the_adapter_knows_onnx_runtime() -> None:
    sources = [path for path in opkit.SOURCE.rglob("*") if path.suffix in {".cc", ".h"} and path.name != "ort_abi.h"]
    knowing = {path.name for path in sources if re.search(r"ort_(abi|convert)\.h", path.read_text(encoding="utf-8"))}
    assert knowing == {"register_op.cc", "ort_convert.cc", "ort_convert.h"}
