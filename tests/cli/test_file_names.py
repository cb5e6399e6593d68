"""Names of files that are no UTF-8, or that the terminal cannot show, and links to folders."""

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from service.cli.main import main
from service.evaluation import files_below
from tests.live.service_process import ROOT, command, environment
from tests.pictures import encode
from tests.tiny_zoo import COLOURS, write_zoo

LATIN = os.fsdecode(b"caf\xe9.png")
PICTURE = encode(Image.new("RGB", (40, 40), (200, 90, 10)), "PNG")
BOTH = ("--a", "reference", "--b", "full")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def photos(tmp_path, zoo, monkeypatch) -> Path:
    monkeypatch.setenv("BIREAL_MODEL_DIR", str(zoo))
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / LATIN).write_bytes(PICTURE)
    return folder


def test_a_report_of_a_name_that_is_no_utf_8(capsys, photos, tmp_path):
    (photos / LATIN.replace(".png", ".jpg")).write_bytes(b"torn")
    report = tmp_path / "report.html"
    report.write_text("an older one")
    assert main(["compare", str(photos), *BOTH, "--report", str(report), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [each["file"] for each in document["differ_most"]] == [r"caf\xe9.png"]
    assert [each["file"] for each in document["failed"]] == [r"caf\xe9.jpg"]
    page = report.read_text(encoding="utf-8")
    assert r'<img src="data:image/jpeg;base64,' in page, "the picture is found by its own name"
    assert r"<figcaption>caf\xe9.png" in page
    assert json.loads(report.with_suffix(".json").read_text())["images"][0]["file"] == r"caf\xe9.png"


def test_a_report_that_cannot_be_written_leaves_the_older_one(capsys, photos, tmp_path):
    report = tmp_path / "report.html"
    report.write_text("an older one")
    report.with_suffix(".json").mkdir()
    assert main(["compare", str(photos), *BOTH, "--report", str(report)]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert report.read_text() == "an older one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "report.html", "report.json"]


def test_a_report_by_a_link_goes_where_it_points(photos, tmp_path):
    (tmp_path / "link.html").symlink_to("report.html")
    assert main(["compare", str(photos), *BOTH, "--report", str(tmp_path / "link.html"), "--json"]) == 0
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_documents_have_no_halves_of_characters(capsys, photos):
    """RFC 8259 lets a reader refuse them."""
    (photos / LATIN).write_bytes(b"")
    for arguments in (["predict", str(photos / LATIN)], ["predict", str(photos), str(photos)]):
        main([*arguments, "--variant", "full", "--json"])
        out = capsys.readouterr().out
        assert r"caf\\xe9.png is empty" in out
        assert r"\udce9" not in out


@pytest.mark.parametrize(
    ("encoding", "name", "shown"),
    [("utf-8:strict", LATIN, rb"caf\xe9"), ("ascii:strict", "caf\u00e9.png", rb"caf\xe9")],
    ids=["utf-8", "ascii"],
)
def test_an_output_that_is_strict(photos, zoo, tmp_path, encoding, name, shown):
    (photos / LATIN).rename(photos / name)
    report = tmp_path / f"{name}.html"
    for arguments in (["predict", "--variant", "full"], ["compare", *BOTH, "--report", report]):
        ended = subprocess.run(
            command(*arguments, photos),
            cwd=ROOT,
            env=environment(BIREAL_MODEL_DIR=str(zoo), PYTHONIOENCODING=encoding),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert shown in ended.stdout, "also of compare, which says where the report is"
        assert b"Traceback" not in ended.stderr
    assert report.stat().st_size > 1000


# ---- links to folders ------------------------------------------------------------------------------------------------


def test_folders_that_are_links_are_looked_into(capsys, photos, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "more").mkdir(parents=True)
    for path in (elsewhere / "a.png", elsewhere / "more" / "b.png"):
        path.write_bytes(PICTURE)
    (photos / LATIN).unlink()
    for wnid, _ in COLOURS[:2]:  # twice the same folder, under two names
        (photos / wnid).symlink_to(elsewhere)
    (elsewhere / "again").symlink_to(elsewhere)
    (elsewhere / "itself").symlink_to("itself")

    def run(*arguments: str) -> dict:
        assert main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    compared = run("compare", str(photos), *BOTH)
    assert (compared["n"], compared["labelled"]) == (4, 4)
    assert run("evaluate", "--data", str(photos), "--variant", "full")["n"] == 4
    predicted = run("predict", str(photos), "--variant", "full")
    names = [Path(each["file"]).relative_to(photos).as_posix() for each in predicted["results"]]
    assert names == [f"{wnid}/{name}" for wnid, _ in COLOURS[:2] for name in ("a.png", "more/b.png")]


def test_a_folder_that_links_to_itself_is_searched_once(photos):
    for number in range(6):
        (photos / f"folder{number}").symlink_to(photos)
    assert list(files_below(photos)) == [photos / LATIN]


def test_a_folder_that_cannot_be_read_is_not_called_empty(capsys, photos, monkeypatch):
    def refused(folder: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

    monkeypatch.setattr(Path, "iterdir", refused)  # root may read every folder
    for name in ("predict", "compare"):
        assert main([name, str(photos)]) == 2
        assert capsys.readouterr().err == f"error: {photos}: Permission denied.\n"


def test_a_folder_of_many_that_cannot_be_read_is_named(capsys, photos, monkeypatch):
    """Its images were missing in the scores without a word."""
    (photos / "more").mkdir()
    iterdir = Path.iterdir

    def refused(folder: Path) -> Iterator[Path]:
        if folder.name == "more":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", refused)  # root may read every folder
    for arguments in (["predict", str(photos)], ["compare", str(photos)], ["evaluate", "--data", str(photos)]):
        assert main(arguments) == 2
        assert f"{photos / 'more'} cannot be read (Permission denied): give access to it" in capsys.readouterr().err
