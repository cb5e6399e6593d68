"""`--url`: the same output as without, from a running service."""

import itertools
import json
import os
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.cli.main import main
from service.cli.remote import ServiceChangedError
from service.cli.remote_network import Sameness
from service.client import AsyncClient, Client, ProblemError
from service.schemas import Problem
from tests.live.service_process import ROOT, command, environment, running
from tests.pictures import encode, photo
from tests.tiny_zoo import COLOURS, DEPTH_SIZE, write_zoo

KEY = "a-key-for-tests-only-0123456789abcdef"


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote")
    (folder / "photos").mkdir()
    (folder / "photos/cat.jpg").write_bytes(encode(photo(), "JPEG"))
    (folder / "photos/torn.jpg").write_bytes(encode(photo(), "JPEG")[:4000])
    (folder / "key").write_text(KEY + "\n")
    options = ("--fallback", "reference", "--api-keys-file", folder / "key")
    with running(write_zoo(folder / "zoo"), folder / "log", *options) as service:
        service.folder = folder
        yield service


def predict(live, *arguments: object) -> subprocess.CompletedProcess[str]:
    whole = command("predict", *arguments, "--url", live.url)
    return subprocess.run(whole, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=False)


def test_one_picture(live):
    folder = live.folder
    run = predict(live, folder / "photos/cat.jpg", "--json", "--variant", "full", "--key-file", folder / "key")
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["predictions"][0]["name"] == "red"
    assert found["file"].endswith("cat.jpg")


def test_a_folder_with_a_broken_picture(live):
    run = predict(live, live.folder / "photos", "--json", "--key-file", live.folder / "key")
    assert run.returncode == 1, run.stderr
    results = json.loads(run.stdout)["results"]
    assert results[0]["predictions"]
    assert results[1]["code"] == "broken-image"


def test_what_every_picture_would_get_ends_the_run(live, capsys):
    picture = str(live.folder / "photos/cat.jpg")
    assert main(["predict", *[picture] * 3, "--url", live.url, "--json"]) == 2
    output = capsys.readouterr()
    assert json.loads(output.out)["code"] == "unauthorized"
    assert "--key-file" in output.err


def test_a_file_that_cannot_be_read_does_not_end_the_run(live, tmp_path):
    with socket.socket(socket.AF_UNIX) as unreadable:  # which even root cannot open
        unreadable.bind(str(tmp_path / "socket"))
        files = (tmp_path / "socket", live.folder / "photos/cat.jpg")
        run = predict(live, *files, "--json", "--key-file", live.folder / "key")
        alone = predict(live, files[0], "--json", "--key-file", live.folder / "key")
    assert run.returncode == 1, run.stderr
    results = json.loads(run.stdout)["results"]
    assert results[0]["code"] == "broken-image"
    assert results[1]["predictions"]
    assert alone.returncode == 2
    assert "cannot be read" in json.loads(alone.stdout)["detail"]


def test_a_depth_map(live, tmp_path):
    path = live.folder / "photos/cat.jpg"
    out = tmp_path / "depth.npy"
    run = predict(live, path, "--task", "depth", "--output", out, "--key-file", live.folder / "key")
    assert run.returncode == 0, run.stderr
    assert out.read_bytes().startswith(b"\x93NUMPY")
    assert " m, median " in run.stdout


def test_a_depth_map_of_a_picture_from_a_pipe(live, tmp_path):
    receiving, sending = os.pipe()
    os.write(sending, encode(Image.new("RGB", (90, 40), "grey"), "PNG"))
    os.close(sending)
    out = tmp_path / "depth.npy"
    arguments = ["predict", f"/dev/fd/{receiving}", "--task", "depth", "--output", out, "--url", live.url]
    assert main([*map(str, arguments), "--key-file", str(live.folder / "key")]) == 0
    assert out.read_bytes().startswith(b"\x93NUMPY")
    os.close(receiving)


def test_the_map_is_by_the_network_that_the_answer_names(document, live, tmp_path, monkeypatch):
    """Without a variant, an experiment may give two requests to different arms."""
    asked = []
    ask = Client.depth_picture

    def recorded(client, image, **options):
        asked.append((options["model"], options["variant"]))
        return ask(client, image, **options)

    monkeypatch.setattr(Client, "depth_picture", recorded)
    picture, out = live.folder / "photos/cat.jpg", tmp_path / "depth.npy"
    said = document("predict", picture, "--task", "depth", "--output", out)
    assert asked == [(f"{said['model']}@{said['version']}", said["variant"])]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "key"), (["--key-file", "/no/such/file"], "cannot be read"), (["--model", "none"], "key")],
)
def test_what_goes_wrong_is_one_sentence(live, arguments, said):
    run = predict(live, live.folder / "photos/cat.jpg", *arguments)
    assert run.returncode == 2
    assert run.stderr.startswith("error: ")
    assert said in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no keys"),
        ("# nothing yet\n", "holds no keys"),
        (f"{KEY}\n{KEY}2\n", "holds 2 keys"),
        ("cl\u00e9-0123456789abcdef\n", "cannot carry"),
        ("two words 0123456789abc\n", "cannot carry"),
    ],
)
def test_a_key_file_that_cannot_be_used(live, tmp_path, content, said):
    (tmp_path / "key").write_text(content, encoding="utf-8")
    run = predict(live, live.folder / "photos/cat.jpg", "--key-file", tmp_path / "key")
    assert run.returncode == 2
    assert run.stderr.startswith("error: ")
    assert said in run.stderr
    assert "Traceback" not in run.stderr
    assert "0123456789" not in run.stderr, "a key was printed"


def test_a_key_file_may_have_comments_as_the_services_own(live, tmp_path):
    (tmp_path / "key").write_text(f"# of the camera at the gate\n\n{KEY}\n")
    run = predict(live, live.folder / "photos/cat.jpg", "--variant", "full", "--key-file", tmp_path / "key")
    assert run.returncode == 0, run.stderr


def test_nobody_there(live):
    whole = command("predict", live.folder / "photos/cat.jpg", "--url", "http://127.0.0.1:9")
    run = subprocess.run(whole, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2
    assert "could not be reached in 4 tries" in run.stderr


# ---- whole folders: the same figures as without --url ----------------------------------------------------------------


@pytest.fixture
def document(live, monkeypatch, capsys):
    """What a command prints with `--json`, asking the service or, with `remote=False`, running the same models here."""
    monkeypatch.setenv("BIREAL_MODEL_DIR", str(live.folder / "zoo"))

    def call(*arguments: object, remote: bool = True, code: int = 0) -> dict:
        more = ("--url", live.url, "--key-file", live.folder / "key") if remote else ()
        assert main([*map(str, (*arguments, *more)), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return call


@pytest.fixture
def labelled(tmp_path) -> Path:
    """Pictures of mixed colours, so that probabilities differ, and one that cannot be read."""
    for number, (wnid, _) in enumerate(COLOURS):
        (tmp_path / "labelled" / wnid).mkdir(parents=True)
        for step in range(4):
            colour = [60 + 20 * step] * 3
            colour[number] = 140
            picture = Image.new("RGB", (50 + step, 40), tuple(colour))
            (tmp_path / "labelled" / wnid / f"{step}.png").write_bytes(encode(picture, "PNG"))
    (tmp_path / "labelled" / COLOURS[0][0] / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    return tmp_path / "labelled"


@pytest.fixture
def road(tmp_path) -> Path:
    """Pictures wider than the network's aspect, of several brightnesses, with a truth."""
    drive = tmp_path / "road" / "drive_0001"
    (drive / "left").mkdir(parents=True)
    (drive / "lidar_depth").mkdir()
    height, width = DEPTH_SIZE[0] * 2, DEPTH_SIZE[1] * 2 + 20
    truth = np.rint(256 * np.tile(np.linspace(3, 40, width), (height, 1))).astype(np.uint16)
    for number in range(3):
        picture = Image.new("RGB", (width, height), (90 + 50 * number,) * 3)
        (drive / "left" / f"{number}.png").write_bytes(encode(picture, "PNG"))
        Image.fromarray(truth).save(drive / "lidar_depth" / f"{number}.png")
    (drive / "calib.json").write_text(json.dumps({"fx": 130.0, "baseline_m": 0.54}))
    return tmp_path / "road"


def without_times(value: object) -> object:
    """A document without what differs from run to run and from machine to machine."""
    if isinstance(value, dict):
        timed = {"speed", "machine", "latency", "speedup_median", "inference_ms_median", "inference_ms", "verdict"}
        return {name: without_times(part) for name, part in value.items() if name not in timed | {"session_bytes"}}
    return [without_times(part) for part in value] if isinstance(value, list) else value


def same(there: dict, here: dict) -> None:
    assert there.keys() == here.keys()
    assert without_times(there) == without_times(here)


def test_evaluate_classes(document, labelled):
    asked = ("evaluate", "--data", labelled, "--variant", "full")
    there = document(*asked, code=1)
    same(there, document(*asked, remote=False, code=1))
    assert (there["n"], there["top1"], there["model"]) == (12, 1.0, "tiny-colours")
    assert [Path(item["file"]).name for item in there["failed"]] == ["torn.png"]


def test_evaluate_takes_the_default_that_it_takes_without_a_service(document, labelled):
    asked = ("evaluate", "--data", labelled, "--limit", 4)
    there, here = document(*asked), document(*asked, "--fallback", "reference", remote=False)
    assert there["model"] == here["model"] == "tiny-bireal"
    assert there["variant"] == here["variant"]
    assert there["n"] == here["n"] == 4


def test_evaluate_depth(document, road):
    asked = ("evaluate", "--data", road, "--model", "tiny-bireal-depth", "--variant", "reference", "--against", "full")
    there = document(*asked)
    same(there, document(*asked, remote=False))
    assert there["n"] == 3
    assert there["paired"]["against"]["model"] == "tiny-ramp"


def test_compare_a_folder_of_classes(document, labelled, tmp_path):
    asked = ("compare", labelled, "--a", "reference", "--b", "full", "--report")
    there = document(*asked, tmp_path / "there.html")
    here = document(*asked, tmp_path / "here.html", remote=False)
    same(there, here)
    assert there["machine"].keys() == here["machine"].keys()
    assert there["machine"]["url"].startswith("http://")
    assert there["machine"]["version"] == here["machine"]["version"]
    assert (there["n"], there["labelled"], len(there["failed"])) == (12, 12, 1)
    assert any(0 < pair["divergence"] < 1 for pair in there["differ_most"]), "from whole distributions"
    assert there["a"]["session_bytes"] is not None
    assert there["machine"]["url"] in (tmp_path / "there.html").read_text()


@pytest.mark.parametrize("report", [False, True], ids=["figures", "report"])
@pytest.mark.parametrize("truth", [False, True], ids=["pictures", "truth"])
def test_compare_a_folder_of_road_scenes(document, road, tmp_path, report, truth):
    folder = road if truth else road / "drive_0001" / "left"
    asked = ("compare", folder, "--task", "depth", "--a", "reference", "--b", "full")
    more = ("--report", tmp_path / "report.html") if report else ()
    there = document(*asked, *more)
    same(there, document(*asked, remote=False))
    assert (there["n"], there["labelled"]) == (3, 3 if truth else 0)
    if report:
        assert (tmp_path / "report.html").read_text().count("Where the depths differ") == len(there["differ_most"])


def test_compare_one_picture(document, live):
    there = document("compare", live.folder / "photos/cat.jpg", "--a", "reference")
    here = document("compare", live.folder / "photos/cat.jpg", "--a", "reference", remote=False)
    assert there.keys() == here.keys()
    assert there["weights"] == here["weights"]
    assert there["b"]["predictions"] == here["b"]["predictions"]


def test_a_password_in_the_address_is_in_no_report(live, tmp_path, capsys):
    report = tmp_path / "report.html"
    url = live.url.replace("http://", "http://somebody:secret@")
    arguments = ["compare", live.folder / "photos", "--a", "reference", "--url", url, "--report", report, "--json"]
    assert main([*map(str, arguments), "--key-file", str(live.folder / "key")]) == 0
    texts = (capsys.readouterr().out, report.read_text(), report.with_suffix(".json").read_text())
    assert all(live.url in text and "secret" not in text and "somebody" not in text for text in texts)


def test_compare_for_people(live, capsys):
    arguments = ["compare", live.folder / "photos", "--a", "reference", "--url", live.url]
    assert main([*map(str, arguments), "--key-file", str(live.folder / "key")]) == 0
    text = capsys.readouterr().out
    assert "1 image: the variants agree on" in text
    assert "not compared: torn.jpg" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--variant", "full", "no key"], "--key-file"),
        (["--model", "none"], "no model 'none'"),
        (["--variant", "ternary"], "no variant 'ternary'"),
        (["--model", "tiny-colours", "--variant", "binary"], "'tiny-bireal'"),
    ],
)
def test_what_the_service_does_not_serve_is_said_before_any_image(live, labelled, capsys, arguments, said):
    key = [] if arguments[-1] == "no key" else ["--key-file", str(live.folder / "key")]
    arguments = [part for part in arguments if part != "no key"]
    assert main(["evaluate", "--data", str(labelled), "--url", live.url, *arguments, *key]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert said in output.err
    assert "image/s" not in output.err, "no progress: it is known at once"


@pytest.mark.parametrize("status", [429, 504])
@pytest.mark.parametrize("command", [["compare"], ["evaluate", "--data"]], ids=lambda value: value[0])
def test_a_service_that_is_too_busy_gives_no_figure(live, labelled, capsys, monkeypatch, command, status):
    """All but the third request, an image in the middle, are answered."""
    code = {429: "overloaded", 504: "deadline-exceeded"}[status]
    problem = Problem(type="", title="", status=status, detail="Too busy.", code=code, help="Wait.")
    method = "compare_classify" if command == ["compare"] else "classify"
    ordinary, asked = getattr(AsyncClient, method), itertools.count(1)

    async def busy(*arguments, **options):
        if next(asked) == 3:
            raise ProblemError(problem, status)
        return await ordinary(*arguments, **options)

    monkeypatch.setattr(AsyncClient, method, busy)
    key = str(live.folder / "key")
    assert main([*command, str(labelled), "--url", live.url, "--key-file", key, "--json"]) == 2
    output = capsys.readouterr()
    assert json.loads(output.out)["code"] == code
    assert "error: Too busy. The service could not answer every image in time, so no figure was computed." in output.err


@pytest.mark.parametrize("command", [["compare"], ["evaluate", "--data"]], ids=lambda value: value[0])
def test_nobody_answers_for_a_folder(labelled, capsys, command):
    assert main([*command, str(labelled), "--url", "http://127.0.0.1:9", "--json"]) == 2
    output = capsys.readouterr()
    assert json.loads(output.out)["code"] == "no-answer"
    assert "could not be reached in 4 tries" in output.err


def test_a_folder_that_is_no_class(live, tmp_path, capsys):
    (tmp_path / "data" / "n99999999").mkdir(parents=True)
    (tmp_path / "data" / "n99999999" / "a.png").write_bytes(encode(Image.new("RGB", (40, 40)), "PNG"))
    arguments = ["evaluate", "--data", str(tmp_path / "data"), "--variant", "full", "--url", live.url]
    assert main([*arguments, "--key-file", str(live.folder / "key")]) == 2
    assert "no class of tiny-colours" in capsys.readouterr().err


def test_the_model_of_the_service_says_which_task(live, labelled, capsys):
    arguments = ["evaluate", "--data", str(labelled), "--model", "tiny-ramp", "--variant", "full", "--url", live.url]
    assert main([*arguments, "--key-file", str(live.folder / "key")]) == 2
    assert f"{labelled} has no left/" in capsys.readouterr().err


def test_no_task_is_needed_where_a_model_of_the_service_is_named(document, live, tmp_path):
    picture, named = live.folder / "photos/cat.jpg", ("--model", "tiny-ramp")
    answer = document("predict", picture, *named, "--variant", "full", "--output", tmp_path / "map.json")
    assert json.loads((tmp_path / "map.json").read_text())["median_m"] == answer["median_m"]
    assert document("compare", picture, *named, "--a", "full")["within_1_25"] == 1


def test_another_network_in_the_middle_ends_the_run(live):
    with Client(live.url, api_key=KEY) as service:
        first, second = (service.depth_map(encode(photo(), "JPEG"), variant=name) for name in ("reference", "full"))
    same_network = Sameness(first, None)
    same_network.check(first)
    with pytest.raises(ServiceChangedError, match=r"tiny-bireal-depth@1 \(reference\) .* tiny-ramp@1 \(full\) later"):
        same_network.check(second)
