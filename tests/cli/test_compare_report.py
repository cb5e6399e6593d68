"""`compare FOLDER --report`: the figures follow from the answers, and the page stands alone."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from service.card import ClassLabel
from service.cli.compare_folder import classify_folder
from service.cli.main import main
from tests.pictures import encode
from tests.tiny_zoo import COLOURS, DEPTH_SIZE, FAR_M, NEAR_M, write_zoo

SHADES = {"red": "red", "green": "lime", "blue": "blue"}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(autouse=True)
def _settings(zoo, monkeypatch) -> None:
    monkeypatch.setenv("BIREAL_MODEL_DIR", str(zoo))


def fill(root: Path, folder: str, shade: str, count: int = 4) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        data = encode(Image.new("RGB", (50 + number, 40), shade), "PNG")
        (root / folder / f"{number}.png").write_bytes(data)


def run(capsys, *arguments: object) -> dict:
    assert main(["compare", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


class _Page(HTMLParser):
    """Every tag must be closed, and nothing may come from elsewhere."""

    VOID = frozenset({"meta", "img", "br", "line", "circle", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href", "xlink:href"}]

    def handle_endtag(self, tag):
        if tag not in self.VOID:  # `<line/>` ends itself
            assert self.open.pop() == tag

    @classmethod
    def read(cls, file: Path) -> "_Page":
        page = cls()
        page.feed(file.read_text(encoding="utf-8"))
        assert page.open == []
        return page


def test_labels_are_folders_called_like_a_class(capsys, tmp_path):
    photos = tmp_path / "photos"
    for wnid, name in COLOURS:
        fill(photos, wnid, SHADES[name])
    fill(photos, "Green", "lime", 2)  # the same class, by its name
    fill(photos, "holiday", "blue", 3)
    (photos / "holiday" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    report = tmp_path / "report.html"
    document = run(capsys, photos, "--a", "reference", "--b", "full", "--report", report)
    assert (document["n"], document["labelled"]) == (17, 14)
    assert document["unlabelled_folders"] == ["holiday"]
    assert [item["file"] for item in document["failed"]] == ["holiday/broken.jpg"]
    figures = json.loads(report.with_suffix(".json").read_text())
    assert {key: figures[key] for key in document} == document
    images = figures["images"]
    assert len(images) == 17
    labelled = [image for image in images if "truth" in image]
    right = {side: sum(image[side]["right"] for image in labelled) for side in ("a", "b")}
    assert right["b"] == 14, "tiny-colours names every colour"
    low, high = stats.binomtest(right["a"], 14).proportion_ci(0.95, method="exact")
    assert document["accuracy"]["a"] == pytest.approx({"estimate": right["a"] / 14, "lower": low, "upper": high})
    assert document["pairs"] == {"both": right["a"], "only_a": 0, "only_b": 14 - right["a"], "neither": 0}
    assert document["mcnemar_p"] == stats.binomtest(0, 14 - right["a"]).pvalue
    assert document["agreement"] == np.mean([image["agree"] for image in images])
    assert document["verdict"]["conclusion"] == "worse"
    page = _Page.read(report)
    assert page.seen.count("svg") == 3
    assert all(link.startswith("data:image/") for link in page.links)
    text = report.read_text()
    assert document["verdict"]["summary"] in text
    assert "holiday/broken.jpg" in text
    assert "<script" not in text
    assert not re.search(r"https?://", text), "nothing is loaded from elsewhere"


def test_the_images_shown_are_those_that_differ_most(capsys, tmp_path):
    photos = tmp_path / "photos"
    rng = np.random.default_rng(5)
    photos.mkdir()
    for number in range(30):
        pixels = rng.integers(0, 256, (1, 1, 3), dtype=np.uint8)
        (photos / f"{number}.png").write_bytes(encode(Image.fromarray(pixels).resize((40, 40)), "PNG"))
    report = tmp_path / "report.html"
    document = run(capsys, photos, "--a", "reference", "--b", "full", "--report", report)
    images = json.loads(report.with_suffix(".json").read_text())["images"]
    worst = sorted((image["divergence"] for image in images), reverse=True)[:12]
    assert [image["divergence"] for image in document["differ_most"]] == worst
    assert len(set(worst)) > 1
    assert document["verdict"]["conclusion"] == "no_labels"
    assert document["labelled"] == 0
    assert _Page.read(report).seen.count("figure") == 12


def test_people_are_told_which_folders_are_no_labels(capsys, tmp_path):
    photos = tmp_path / "photos"
    arguments = ["compare", str(photos), "--a", "full", "--b", "full"]
    fill(photos, COLOURS[0][0], "red", 2)
    assert main(arguments) == 0
    assert "without labels" not in capsys.readouterr().out
    fill(photos, "holiday", "blue", 1)
    fill(photos, "zoo", "blue", 1)
    assert main(arguments) == 0
    assert "folders that name no class of the model, compared without labels: holiday, zoo\n" in capsys.readouterr().out


def test_one_variant_against_itself(capsys, tmp_path):
    fill(tmp_path / "photos", COLOURS[0][0], "red", 5)
    document = run(capsys, tmp_path / "photos", "--a", "full", "--b", "full", "--report", tmp_path / "r.html")
    assert document["agreement"] == 1
    assert document["accuracy"]["difference"]["estimate"] == 0
    assert document["differ_most"] == []
    assert document["mcnemar_p"] == 1
    assert document["verdict"]["summary"] == "a (full) and b (full) are the same variant twice: differences are noise."
    said = " ".join(document["verdict"]["sentences"])
    assert "give the same best class on 100.0 %" in said
    assert "fast" not in said
    assert "as long as" not in said
    assert 0.2 < document["latency"]["ratio"]["estimate"] < 5


def road(root: Path, *, truth: bool, frames: int = 3) -> Path:
    drive = root / "drive_0001"
    (drive / "left").mkdir(parents=True)
    height, width = DEPTH_SIZE
    ramp = np.tile(np.linspace(NEAR_M, FAR_M, width), (height, 1))
    for number in range(frames):
        (drive / "left" / f"{number}.png").write_bytes(encode(Image.new("RGB", (width, height), "white"), "PNG"))
        if truth:
            (drive / "lidar_depth").mkdir(exist_ok=True)
            Image.fromarray(np.rint(256 * ramp).astype(np.uint16)).save(drive / "lidar_depth" / f"{number}.png")
    (drive / "calib.json").write_text(json.dumps({"fx": 50.0, "baseline_m": 0.54}))
    return root


def test_depth_with_ground_truth(capsys, tmp_path):
    report = tmp_path / "report.html"
    folder = road(tmp_path / "road", truth=True, frames=20)
    document = run(capsys, folder, "--a", "reference", "--b", "full", "--report", report)
    assert document["task"] == "depth", "found by the folder"
    assert document["labelled"] == 20
    assert document["depth"]["delta1"]["b"]["estimate"] == 1
    assert document["depth"]["abs_rel"]["b"]["estimate"] < 0.01
    assert document["depth"]["delta1"]["difference"]["estimate"] < -0.1
    assert document["verdict"]["conclusion"] == "worse"
    page = _Page.read(report)
    assert sum(link.startswith("data:image/png") for link in page.links) == 12, "maps of where the depths differ"


def test_agreement_of_depth_is_told_with_its_criterion_and_the_share_of_pixels(capsys, tmp_path):
    """No two maps of these agree in nine tenths of their pixels, which alone says nothing of how far they are apart."""
    folder = road(tmp_path / "road", truth=True)
    arguments = ["compare", str(folder), "--a", "reference", "--b", "full"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    document = run(capsys, *arguments[1:])
    share = 100 * document["within_1_25"]
    assert (document["agreement"], share > 0) == (0, True)
    assert (
        "3 images: the variants agree on 0.0 % (95 % interval 0.0 to 70.8; they agree where 90 % of the pixels are "
        f"within a factor of 1.25, and on average {share:.1f} % are).\n"
    ) in text


def test_the_text_has_the_interval_of_the_agreement_and_mcnemars_test(capsys, tmp_path):
    photos = tmp_path / "photos"
    for wnid, name in COLOURS:
        fill(photos, wnid, SHADES[name])
    arguments = ["compare", str(photos), "--a", "reference", "--b", "full"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    document = run(capsys, *arguments[1:])
    agreement, interval = document["agreement"], document["agreement_interval"]
    assert (
        f"12 images: the variants agree on {100 * agreement:.1f} % (95 % interval {100 * interval['lower']:.1f} to "
        f"{100 * interval['upper']:.1f}).\n"
    ) in text
    lost = document["pairs"]["only_b"]
    assert lost > 0
    assert f"only b on {lost} (McNemar's exact test: p = {stats.binomtest(0, lost).pvalue:.2g}).\n" in text


def test_a_damaged_truth_costs_its_own_image(capsys, tmp_path):
    folder = road(tmp_path / "road", truth=True)
    (folder / "drive_0001" / "lidar_depth" / "1.png").write_bytes(b"not a picture")
    document = run(capsys, folder, "--a", "reference", "--b", "full")
    assert [item["file"] for item in document["failed"]] == ["drive_0001/left/1.png"]
    assert document["labelled"] == 2


def test_a_second_of_a_drive_decides_nothing(capsys, tmp_path):
    """Frames of a drive resemble each other: three of them are not three observations."""
    report = tmp_path / "report.html"
    folder = road(tmp_path / "road", truth=True)
    document = run(capsys, folder, "--a", "reference", "--b", "full", "--report", report)
    assert document["depth"]["delta1"]["difference"]["estimate"] < -0.1
    assert document["depth"]["delta1"]["difference"]["lower"] is None
    assert document["verdict"]["conclusion"] == "undecided"
    assert report.stat().st_size > 1000


def test_depth_without_ground_truth(capsys, tmp_path):
    folder = road(tmp_path / "road", truth=False)
    document = run(capsys, folder, "--a", "full", "--b", "full", "--limit", 2)
    assert (document["task"], document["n"], document["labelled"]) == ("depth", 2, 0)
    assert document["within_1_25"] == 1
    assert document["verdict"]["conclusion"] == "no_labels"


def test_names_from_a_folder_cannot_break_the_page(capsys, tmp_path):
    photos = tmp_path / "<b>&'\"photos"
    photos.mkdir()
    (photos / "<script>alert(1)</script>.png".replace("/", "_")).write_bytes(
        encode(Image.new("RGB", (40, 40), (200, 90, 10)), "PNG")
    )
    report = tmp_path / "report.html"
    run(capsys, photos, "--a", "reference", "--b", "full", "--report", report)
    text = report.read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    _Page.read(report)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{photos}", "--report", "{tmp}/report.txt"], "end in .html"),
        (["{photos}", "--report", "{tmp}/none/report.html"], "does not exist"),
        (["{photos}/n00000001/0.png", "--report", "{tmp}/report.html"], "applies to a folder"),
        (["{photos}", "--margin", "0"], "--margin"),
        (["{photos}", "--margin", "x"], "--margin"),
        (["{photos}", "--limit", "0"], "--limit"),
    ],
)
def test_what_cannot_be_is_said_at_once(capsys, tmp_path, arguments, said):
    fill(tmp_path / "photos", COLOURS[0][0], "red", 1)
    filled = [each.format(photos=tmp_path / "photos", tmp=tmp_path) for each in arguments]
    if said.startswith("--"):  # what argparse checks
        with pytest.raises(SystemExit, match="2"):
            main(["compare", *filled])
    else:
        assert main(["compare", *filled]) == 2
    assert said in capsys.readouterr().err


def test_a_margin_decides(capsys, tmp_path):
    for wnid, name in COLOURS:
        fill(tmp_path / "photos", wnid, SHADES[name], 30)
    document = run(capsys, tmp_path / "photos", "--a", "full", "--b", "full", "--margin", "0.05")
    assert document["verdict"]["conclusion"] == "good_enough"
    document = run(capsys, tmp_path / "photos", "--a", "full", "--b", "full", "--margin", "0.001")
    assert document["verdict"]["conclusion"] == "undecided"


def test_a_name_of_two_classes_labels_no_image(tmp_path):
    """As ImageNet's two cranes: which one a folder means is not known, and either guess would count wrong answers."""
    classes = [ClassLabel(wnid=f"n{number}", name=name) for number, name in enumerate(("crane", "Crane", "dog"))]
    for folder in ("crane", "dog", "n1"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "a.png")
    found = classify_folder(tmp_path, classes, None)
    assert [item.label and item.label.wnid for item in found.items] == [None, "n2", "n1"]
    assert found.unlabelled_folders == ["crane"]
