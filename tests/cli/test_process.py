"""The command line as a process: how it ends where somebody or something ends it."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.live.service_process import ROOT, command, environment
from tests.pictures import encode, photo
from tests.tiny_zoo import colours_graph, write_model, write_zoo

_SIDE = 700
_PRODUCTS = 12


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard():
    """Undoes that a shell lets what it starts in the background ignore Ctrl-C, and all that this starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def slow_graph() -> onnx.ModelProto:
    """`colours_graph` that multiplies large matrices on the way, which takes a good part of a second."""
    model = colours_graph()
    graph = model.graph
    (gemm,) = [node for node in graph.node if node.op_type == "Gemm"]
    gemm.output[0] = "plain"
    matrices = [f"product{number}" for number in range(_PRODUCTS + 1)]
    graph.node.extend(
        [
            helper.make_node("ReduceMean", ["plain"], ["level"], keepdims=0),
            helper.make_node("Mul", ["level", "small"], ["low"]),
            helper.make_node("Expand", ["low", "shape"], [matrices[0]]),
            *(
                helper.make_node("MatMul", [before, matrices[0]], [after])
                for before, after in itertools.pairwise(matrices)
            ),
            helper.make_node("ReduceMean", [matrices[-1]], ["rest"], keepdims=0),
            helper.make_node("Add", ["plain", "rest"], ["logits"]),
        ]
    )
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.float32(0.01 / _SIDE), "small"),
            numpy_helper.from_array(np.array([_SIDE, _SIDE], np.int64), "shape"),
        ]
    )
    return model


@pytest.fixture(scope="module")
def slow_zoo(tmp_path_factory) -> Path:
    zoo = tmp_path_factory.mktemp("slow")
    write_model(zoo, "tiny-colours", slow_graph(), task="classify")
    return zoo


@pytest.fixture(scope="module")
def quick_zoo(tmp_path_factory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("quick"))


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.jpg").write_bytes(encode(photo(), "JPEG"))
    return folder


def start(zoo: Path, *arguments: object, **options) -> "subprocess.Popen[bytes]":
    whole = command(*arguments)
    return subprocess.Popen(
        whole, cwd=ROOT, env=environment(BIREAL_MODEL_DIR=str(zoo), PYTHONUNBUFFERED="1"), **options
    )


# ---- in the middle of runs -------------------------------------------------------------------------------------------


def test_ctrl_c_in_the_middle_of_a_run(slow_zoo, photos):
    """A thread that is inside ONNX Runtime when the interpreter ends would abort the process."""
    arguments = ["predict", "--variant", "full", "--workers", "2", photos]
    with start(slow_zoo, *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        said = b""
        while not re.search(rb" [1-9][0-9]*/30 ", said):
            more = os.read(process.stderr.fileno(), 4096)
            assert more, said
            said += more
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130, said
    assert said.endswith(b"\ninterrupted\n")


def test_a_reader_that_leaves_in_the_middle_of_a_run(slow_zoo, photos):
    arguments = ["predict", "--variant", "full", "--workers", "2", photos]
    with start(slow_zoo, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 0, said
    assert b"Traceback" not in said


# ---- before anything runs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ignored", "code"), [(False, 130), (True, 7)], ids=["heard", "ignored"])
def test_ctrl_c_during_the_imports(tmp_path, ignored, code):
    # The signal ends the wait; one that is ignored does so within it, or not at all.
    wait_s = 0.1 if ignored else 30
    (tmp_path / "onnxruntime.py").write_text(
        f"import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep({wait_s})\nraise SystemExit(7)\n"
    )
    trap = "trap '' INT; " if ignored else ""
    ended = subprocess.run(
        ["bash", "-c", f'{trap}exec "$@"', "bash", *command("models")],
        cwd=ROOT,
        env=environment(PYTHONPATH=str(tmp_path)),
        capture_output=True,
        timeout=250,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, b"", b"")


def test_an_import_leaves_ctrl_c_as_it_was():
    code = "import signal, service.__main__; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=250, check=True)
    assert ended.stdout == b"True\n"


# ---- outputs that take nothing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("redirection", "arguments", "code"),
    [
        (">/dev/full", "predict photo.jpg --variant full --json", 2),
        (">/dev/full", "predict absent.jpg --json", 2),
        (">&-", "predict photo.jpg --variant full --json", 0),
        (">&-", "predict photo.jpg --variant full", 0),
        ("2>/dev/full", "predict absent.jpg --json", 2),
        ("2>&-", "predict absent.jpg --json", 2),
        ("2>&-", "predict photo.jpg photo.jpg --variant full --json", 0),
    ],
)
def test_an_output_that_is_full_or_closed(tmp_path, quick_zoo, redirection, arguments, code):
    (tmp_path / "photo.jpg").write_bytes(encode(photo(), "JPEG"))
    ended = subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *command(*arguments.split())],
        cwd=tmp_path,
        env=environment(BIREAL_MODEL_DIR=str(quick_zoo), PYTHONPATH=str(ROOT)),
        capture_output=True,
        timeout=250,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    assert b"Traceback" not in ended.stderr
    assert b"Exception ignored" not in ended.stderr
    assert ended.stderr.count(b"\n") <= 1
    if redirection.startswith("2"):
        json.loads(ended.stdout)


def test_what_the_start_has_made_is_no_matter_for_garbage_collection(slow_zoo):
    """A full collection would walk it each time, with Python's lock held: 60 ms in which nothing is answered."""
    code = """
import gc, sys
from service.cli import serve
serve.DrainingServer.run = lambda self, sockets: print(gc.get_freeze_count() > len(gc.get_objects()))
from service.cli.main import main
sys.exit(main(["serve", "--port", "0"]))
"""
    variables = environment(BIREAL_MODEL_DIR=str(slow_zoo))
    whole = [sys.executable, "-c", code]
    done = subprocess.run(whole, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=250, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
