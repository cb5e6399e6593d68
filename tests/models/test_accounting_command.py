"""The command line of `models.accounting`: no option is ignored silently, and its reader may leave."""

from __future__ import annotations

import json
import os

import pytest

from models.accounting import DEFAULTS, main

NETWORK = [
    ["--method", "none"],
    ["--structure", "res"],
    ["--task", "depth"],
    ["--width", "1"],
    ["--classes", "1000"],
    ["--size", "224"],
    ["--option", "k_map=false"],
    ["--binary-first-1x1"],
]


def test_every_option_of_a_network_is_tried_here() -> None:
    assert [f"--{name.replace('_', '-')}" for name in DEFAULTS] == [option for option, *_ in NETWORK]


@pytest.mark.parametrize("option", NETWORK, ids=lambda option: option[0])
@pytest.mark.parametrize("graph", [[], ["--graph", "model.onnx"]], ids=["table", "graph"])
def test_an_option_of_a_network_needs_one(
    option: list[str], graph: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*graph, *option])
    assert f"error: {option[0]} describes the network that --depth N counts" in capsys.readouterr().err


def test_a_graph_and_a_network_are_not_counted_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--graph", "model.onnx", "--depth", "18"])
    assert "give one of them" in capsys.readouterr().err


def test_a_network_without_options_is_the_papers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--depth", "18"]) == 0
    plain = json.loads(capsys.readouterr().out)
    said = ["--method", "bireal", "--structure", "bireal", "--task", "classify", "--width", "1", "--classes", "1000"]
    assert main(["--depth", "18", *said, "--size", "224"]) == 0
    assert json.loads(capsys.readouterr().out) == plain


def test_a_reader_that_leaves_ends_it_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert main(["--depth", "18", "--width", "0.125"]) == 0
        pipe.write("what is left in the buffer at exit")  # closing flushes it, which must not fail either
