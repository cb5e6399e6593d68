"""A mistake on the command line of `models.*` or `loadtest.*` is said in two lines."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.command_line import Distinct, Parser, count, expects, positive, show

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("module", ["models.report", "loadtest.capacity", "loadtest.load"])
def test_a_mistake_is_two_lines(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--nonsense"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    said, remedy = done.stderr.splitlines()
    assert said.startswith(f"python -m {module}: error: ")
    assert remedy == f"Run `python -m {module} --help` for usage."


def test_the_usage_is_still_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="python -m x")
    parser.add_argument("--data", required=True)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args([])
    assert capsys.readouterr().err.startswith("python -m x: error: the following arguments are required: --data\n")
    with pytest.raises(SystemExit, match="0"):
        parser.parse_args(["--help"])
    assert capsys.readouterr().out.startswith("usage: python -m x [-h] --data DATA")


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("models.train", ["resnet18-tiny100", "--data", "x", "--out", "x", "--threads", "0"]),
        ("models.train.teacher", ["--data", "x", "--out", "x", "--threads", "-1"]),
        ("models.train.teacher", ["--data", "x", "--out", "x", "--views", "0"]),
        ("models.train.teacher", ["--data", "x", "--out", "x", "--min-scale", "1.5"]),
        ("models.make", ["resnet18-tiny100", "--data", "x", "--runs", "x", "--zoo", "x", "--threads", "0"]),
        ("models.export", ["x", "--out", "x", "--size", "-5"]),
        ("models.ablation", ["--data", "x", "--out", "x", "--threads", "0"]),
        ("models.ablation", ["--data", "x", "--out", "x", "--batch", "0"]),
        ("models.ablation", ["--data", "x", "--out", "x", "--width", "nan"]),
        ("models.eval.calibration", ["x", "--data", "x", "--size", "0"]),
        ("models.eval.resolution", ["x", "--data", "x", "--sizes", "64", "0"]),
        ("models.eval.parity", ["x", "--data", "x", "--limit", "0"]),
        ("models.eval.depth_page", ["--frames", "0"]),
        ("models.figures", ["--size", "0"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-2],
)
def test_a_number_that_makes_no_sense_is_refused_before_anything_is_done(
    module: str, line: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = importlib.import_module(module)
    program = importlib.import_module(f"{module}.__main__") if hasattr(package, "__path__") else package
    monkeypatch.setattr("sys.argv", [module, *line])
    with pytest.raises(SystemExit, match="2"):
        program.main()
    said = capsys.readouterr().err
    assert line[-1] in said and "number above 0" in said


def test_numbers_are_read_and_others_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="x")
    parser.add_argument("--many", type=count)
    parser.add_argument("--much", type=positive)
    found = parser.parse_args(["--many", "12", "--much", "1e-3"])
    assert (found.many, found.much) == (12, 0.001)
    for option, text in (("--many", "0"), ("--many", "1.5"), ("--many", "-1"), ("--much", "x"), ("--much", "inf")):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args([option, text])
        (said, _) = capsys.readouterr().err.splitlines()
        assert said.startswith(f"x: error: argument {option}: ") and text in said and "number above 0" in said


def test_what_is_given_twice_is_done_once() -> None:
    parser = Parser()
    parser.add_argument("--threads", type=count, nargs="+", action=Distinct, default=[1])
    assert parser.parse_args(["--threads", "4", "1", "4", "1"]).threads == [4, 1]
    assert parser.parse_args([]).threads == [1]


def test_an_expected_error_is_a_sentence_and_another_is_a_bug(capsys: pytest.CaptureFixture[str]) -> None:
    @expects(OSError, ValueError)
    def program(error: Exception | None) -> int:
        """What it does."""
        if error is not None:
            raise error
        return 1

    assert (program(None), program.__doc__) == (1, "What it does.")
    assert capsys.readouterr() == ("", "")
    assert program(UnicodeError("say what is wrong")) == 2
    assert capsys.readouterr() == ("", "error: say what is wrong\n")
    with pytest.raises(KeyError):
        program(KeyError("a name of ours"))


def test_a_result_whose_reader_has_left_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        show("more than a buffer holds" * 10_000)
        assert os.path.samestat(os.fstat(pipe.fileno()), Path(os.devnull).stat()), "what follows goes nowhere"
        pipe.write("what is left in the buffer at exit")  # closing flushes it, which must not fail either


def test_every_program_uses_them() -> None:
    for package in ("models", "loadtest"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            assert "= argparse.ArgumentParser(" not in text, path
            assert path.name == "command_line.py" or 'print(f"error: {error}"' not in text, path
            for node in ast.parse(text).body:
                if package == "models" and isinstance(node, ast.FunctionDef) and node.name == "main":
                    assert any("expects(" in ast.unparse(decorator) for decorator in node.decorator_list), path
