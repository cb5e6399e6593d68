"""How commands fail: one sentence that helps, exit code 2, and with `--json` one document all the same."""

import json
import os
import threading
from pathlib import Path

import pytest

from service.cli.main import main
from tests.pictures import encode, photo
from tests.tiny_zoo import write_zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def files(tmp_path, zoo, monkeypatch) -> Path:
    monkeypatch.setenv("BIREAL_MODEL_DIR", str(zoo))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(encode(photo(), "JPEG"))
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "zero.jpg").write_bytes(b"")
    (tmp_path / "torn.jpg").write_bytes(encode(photo(), "JPEG")[:4000])
    (tmp_path / "ribbon.png").write_bytes(encode(photo().resize((30_000, 10)), "PNG"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "flat").mkdir()
    (tmp_path / "labelled" / "n1").mkdir(parents=True)
    (tmp_path / "labelled" / "n1" / "photo.jpg").write_bytes(encode(photo(), "JPEG"))
    (tmp_path / "flat" / "photo.jpg").write_bytes(encode(photo(), "JPEG"))
    return tmp_path


FAILURES = [
    (["predict"], "usage", "PATH"),
    (["predict", ""], "usage", "path is empty"),
    (["nonsense"], "usage", "nonsense"),
    (["predict", "photo.jpg", "--fx", "0"], "usage", "focal length"),
    (["predict", "photo.jpg", "--url", "localhost:8000"], "usage", "http://"),
    (["predict", "photo.jpg", "--url", "http://[::1"], "usage", "http://"),
    (["predict", "photo.jpg", "--url", "http://localhost:99999"], "usage", "http://"),
    (["predict", "photo.jpg", "--url", "http://xn--a"], "usage", "http://"),
    (["predict", "absent.jpg"], "bad-parameter", "absent.jpg does not exist"),
    (["predict", "a" * 300], "system-error", "File name too long"),
    (["predict", "text.jpg", "--variant", "full"], "unsupported-image", "text.jpg: The content seems to be text"),
    (["predict", "text.jpg", "--variant", "full"], "unsupported-image", "Convert it to JPEG, "),
    (["predict", "torn.jpg", "--variant", "full"], "broken-image", "Check that it opens in a viewer."),
    (
        ["predict", "ribbon.png", "--task", "depth", "--variant", "full", "--size", "original", "--output", "d.png"],
        "bad-parameter",
        "Leave out --size original",
    ),
    (
        ["predict", "photo.jpg", "--task", "depth", "--size", "original", "--output", "d.ply"],
        "bad-parameter",
        "Leave out --size original",
    ),
    (["predict", "zero.jpg", "--variant", "full"], "empty-body", "zero.jpg is empty"),
    (["predict", "/dev/null", "--variant", "full"], "empty-body", "/dev/null is empty"),
    (["predict", "photo.jpg", "--model-dir", "absent"], "settings-invalid", "'absent' does not exist"),
    (["predict", "photo.jpg", "--top-k", "x"], "settings-invalid", "--top-k='x'"),
    (["predict", "photo.jpg", "--task", "classify", "--model", "tiny-ramp"], "unknown-model", "'depth'"),
    (["predict", "photo.jpg", "--task", "classify", "--model", "tiny-ramp"], "unknown-model", "--task depth"),
    (["predict", "photo.jpg", "--model", "tiny-bireal@7"], "unknown-model", "tiny-bireal@1"),
    (["predict", "photo.jpg", "--model", "none"], "unknown-model", "`python -m service models` describes them"),
    (["compare", "photo.jpg", "--model", "tiny_bireal"], "unknown-model", "Did you mean 'tiny-bireal'? "),
    (["evaluate", "--data", "labelled", "--model", "none"], "unknown-model", "`python -m service models` describes"),
    (["predict", "photo.jpg", "--variant", "Full"], "unknown-variant", "Did you mean 'full'? "),
    (["predict", "photo.jpg", "--fx", "700"], "bad-parameter", "Add --task depth"),
    (["predict", "photo.jpg", "--size", "original"], "bad-parameter", "Add --task depth"),
    (
        ["predict", "photo.jpg", "photo.jpg", "--task", "depth", "--output", "d.png"],
        "bad-parameter",
        "there are several",
    ),
    (["predict", "photo.jpg", "--task", "depth", "--top-k", "3"], "bad-parameter", "--top-k applies to classification"),
    (
        ["predict", "photo.jpg", "--task", "depth", "--min-probability", "0.5"],
        "bad-parameter",
        "applies to classification only",
    ),
    (["predict", "photo.jpg", "--key-file", "absent"], "usage", "--url"),
    (
        ["predict", "photo.jpg", "--url", "http://127.0.0.1:9", "--kernel", "scalar"],
        "usage",
        "--kernel is for local networks",
    ),
    (["evaluate", "--data", "empty", "--url", "http://127.0.0.1:9", "--model-dir", "x"], "usage", "--model-dir is for"),
    (["compare", "photo.jpg", "--fx", "700"], "bad-parameter", "Add --task depth"),
    (["compare", "photo.jpg", "--task", "depth", "--top-k", "3"], "bad-parameter", "--top-k applies to classification"),
    (["compare", "flat", "--top-k", "3"], "bad-parameter", "--top-k applies to one image"),
    (["compare", "photo.jpg", "--limit", "3"], "bad-parameter", "--limit applies to a folder"),
    (["compare", "photo.jpg", "--margin", "0.1"], "bad-parameter", "--margin applies to a folder"),
    (["compare", "empty"], "bad-parameter", "no image in empty"),
    (["evaluate", "--data", "empty"], "bad-data", "<class>/<file>"),
    (["evaluate", "--data", "flat"], "bad-data", "flat has 1 image directly in it and none in class folders"),
    (["evaluate", "--data", "absent"], "bad-data", "absent is not a folder: name one with <class>/<file>"),
    (["serve", "--port", "99999"], "settings-invalid", "65535"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), FAILURES, ids=lambda value: str(value)[:40])
def test_a_failure_is_a_sentence_and_with_json_a_document(files, capsys, arguments, code, said):
    def run(*more: str) -> tuple[str, str]:
        try:
            status = main([*arguments, *more])
        except SystemExit as stop:
            status = stop.code
        output = capsys.readouterr()
        assert status == 2
        assert said in output.err
        assert output.err.startswith("error: ")
        assert output.err.count("\n") == 1
        return output.out, output.err

    assert run()[0] == ""
    out, err = run("--json")
    document = json.loads(out)
    assert document["code"] == code
    assert document["detail"] in err
    assert document.get("help", "") in err
    assert not any(words in err + out for words in ("GET /", "curl", "scale_bar=", "format=")), "no service is asked"


@pytest.mark.parametrize("command", ["predict photo.jpg", "compare photo.jpg", "evaluate --data flat"])
def test_a_proxy_that_cannot_be_used_is_named(files, capsys, monkeypatch, command):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    assert main([*command.split(), "--url", "http://127.0.0.1:9", "--json"]) == 2
    output = capsys.readouterr()
    assert json.loads(output.out)["code"] == "network-settings"
    assert output.err.startswith("error: the environment's network settings cannot be used")


def test_what_helps_with_one_picture_of_several_is_for_the_command_line_too(files, capsys):
    assert main(["predict", "photo.jpg", "torn.jpg", "--variant", "full", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["results"][1]["help"] == "Check that it opens in a viewer."
    assert main(["predict", "photo.jpg", "torn.jpg", "--variant", "full"]) == 1
    assert "curl" not in capsys.readouterr().out


def test_a_picture_from_a_pipe(files, capsys):
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_bytes(Path("photo.jpg").read_bytes()))
    writer.start()
    assert main(["predict", "pipe", "--variant", "full", "--json"]) == 0
    writer.join()
    assert json.loads(capsys.readouterr().out)["image"]["width"] == 451


def test_a_picture_from_a_pipe_is_compared_as_one_picture_not_as_a_folder(files, capsys):
    receiving, sending = os.pipe()
    os.write(sending, encode(photo().resize((90, 40)), "PNG"))
    os.close(sending)
    pipe = f"/dev/fd/{receiving}"
    assert main(["compare", pipe, "--limit", "3"]) == 2
    assert "--limit applies to a folder" in capsys.readouterr().err
    assert main(["compare", pipe, "--report", "report.html"]) == 2
    assert "--report applies to a folder" in capsys.readouterr().err
    assert main(["compare", pipe, "--a", "reference", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["image"]["width"] == 90
    os.close(receiving)


def test_a_misspelt_variable_is_named_on_standard_error(capsys, files, monkeypatch):
    monkeypatch.setenv("BIREAL_MODELDIR", "elsewhere")
    assert main(["predict", "absent.jpg", "--json"]) == 2
    output = capsys.readouterr()
    assert json.loads(output.out)["code"] == "bad-parameter"
    (warning, error) = output.err.splitlines()
    assert warning.startswith("warning: The variable BIREAL_MODELDIR is not a setting and has no effect")
    assert error.startswith("error: ")
