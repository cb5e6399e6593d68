"""Data that do not fit into memory train as those that do, and damaged data are named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from models.arch import ArchConfig, build
from models.data import folder
from models.data.folder import (
    ImageFiles,
    hold_out,
    load_split,
    read_classes,
    split_files,
    training_batches,
    training_part,
)
from models.data.kitti import load_drives
from models.eval import calibration
from models.train import __main__ as train
from models.train import checkpoint, teacher
from models.train.teacher import load_pretrained
from service import imaging
from service.evaluation import DataError, labelled_images
from tests.changing_zoo import refuse_to_list

SIZES = [(40, 30), (64, 64), (20, 50)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of six files, of several sizes and kinds."""
    rng = np.random.default_rng(0)
    (tmp_path / "classes.json").write_text(
        json.dumps([{"index": i, "wnid": f"n{i}", "name": f"{i}"} for i in range(2)])
    )
    for label in range(2):
        (tmp_path / "train" / f"n{label}").mkdir(parents=True)
        for i in range(6):
            width, height = SIZES[i % 3]
            pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
            image = Image.fromarray(pixels).convert("L" if i == 4 else "RGB")
            image.save(tmp_path / "train" / f"n{label}" / f"{i}.{'png' if i % 2 else 'JPEG'}")
    return tmp_path


def test_files_give_the_batches_that_memory_gives(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = load_split(photos, "train", 32)
    monkeypatch.setattr(folder, "MEMORY_SHARE", 0.0)
    on_demand = load_split(photos, "train", 32)
    assert isinstance(on_demand.images, ImageFiles)
    assert len(on_demand.images) == len(on_demand) == 12
    assert np.array_equal(on_demand.images[2:5], in_memory.images[2:5])
    for ours, theirs in zip(hold_out(on_demand, 2), hold_out(in_memory, 2), strict=True):
        assert isinstance(ours.images, ImageFiles)
        options = {"batch": 2, "size": 16, "min_scale": 0.5, "seed": 1, "epoch": 0}
        batches = zip(training_batches(ours, **options), training_batches(theirs, **options), strict=True)  # type: ignore[arg-type]
        assert all(torch.equal(a, b) for pair in batches for a, b in zip(*pair, strict=True))


def damaged(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_truncated_image_is_named(photos: Path, in_memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = damaged(photos / "train" / "n1" / "2.JPEG")
    monkeypatch.setattr(folder, "fits_memory", lambda _: in_memory)
    with pytest.raises(ValueError, match=rf"{path} cannot be read as an image \(.*truncated.*\): replace or remove it"):
        load_split(photos, "train", 32).images[:]


def test_training_sees_the_pixels_that_the_service_sees(tmp_path: Path) -> None:
    """A photo that lies on its side, a drawing without background and 16-bit grey were decoded differently."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to see it upright
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "side.jpg", exif=exif)
    Image.fromarray(rng.integers(0, 256, (20, 20, 4), np.uint8)).save(tmp_path / "alpha.png")
    Image.fromarray(rng.integers(0, 65536, (20, 20), np.uint16)).save(tmp_path / "wide.png")
    for path in tmp_path.iterdir():
        served = imaging.decode(path.read_bytes())
        assert np.array_equal(np.asarray(folder.read_rgb(path)), served.pixels), path.name
    assert folder.read_rgb(tmp_path / "side.jpg").size == (20, 30)
    assert np.asarray(folder.read_rgb(tmp_path / "wide.png")).std() > 50, "clipped at 255"


@pytest.mark.parametrize("name", ["left", "right"])
def test_a_truncated_frame_is_named(name: str, tmp_path: Path) -> None:
    for side in ("left", "right"):
        (tmp_path / "drive" / side).mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, 256, (40, 1242, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "drive" / side / "0.png")
    assert len(load_drives(tmp_path)) == 1
    path = damaged(tmp_path / "drive" / name / "0.png")
    with pytest.raises(ValueError, match=f"{path} cannot be read as an image"):
        load_drives(tmp_path)


@pytest.mark.parametrize("command", [train, calibration])
def test_a_folder_that_cannot_be_read_ends_a_command_in_a_sentence(
    command: ModuleType, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file in the place of a folder: an OSError that is not FileNotFoundError."""
    start = photos / "best.pt"
    config = ArchConfig(depth=18, num_classes=2, width=0.125)
    checkpoint.save(start, build(config), config, "resnet18-tiny100", checkpoint.Progress())
    monkeypatch.setattr(folder, "read_classes", lambda root: (root / "classes.json" / "x").read_text())
    options = {train: ["resnet18-tiny100", "--out", str(photos / "run")], calibration: [str(start)]}[command]
    monkeypatch.setattr("sys.argv", ["command", *options, "--data", str(photos)])
    assert command.main() == 2
    assert "Not a directory" in capsys.readouterr().err


def test_imagenet_at_224_does_not_fit_into_200_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 200 * 10**9 // 4096}
    monkeypatch.setattr(folder.os, "sysconf", pages.__getitem__)
    assert not folder.fits_memory(1_281_167 * 224 * 224 * 3)
    assert folder.fits_memory(49_979 * 64 * 64 * 3)


def test_nothing_is_held_out_where_nothing_is_asked_for(photos: Path) -> None:
    data = load_split(photos, "train", 32)
    assert [len(part) for part in hold_out(data, 0)] == [12, 0]
    assert [len(part) for part in hold_out(data, 100)] == [0, 12]


def test_a_class_without_images_is_refused_like_a_missing_one(photos: Path) -> None:
    for path in (photos / "train" / "n1").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(FileNotFoundError, match=r"n1 has no images \(.*\.png.*\): add some, or remove n1 from the"):
        load_split(photos, "train", 32)


def test_images_in_subfolders_and_of_every_kind_are_seen_as_by_evaluation(photos: Path) -> None:
    """They were passed over without a word, where `python -m service evaluate` counts them."""
    deeper = photos / "train" / "n0" / "more" / "still"
    deeper.mkdir(parents=True)
    (photos / "train" / "n0" / "1.png").rename(deeper / "1.PNG")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(deeper / "2.gif")
    (deeper / "notes.txt").touch()
    data = load_split(photos, "train", 32)
    assert [(data.labels == label).sum() for label in range(2)] == [7, 6]
    assert {(image.folder, image.path) for image in labelled_images(photos / "train")} == {
        (path.relative_to(photos / "train").parts[0], path) for path in split_files(photos, "train", 32).images.paths
    }
    (deeper / "3.png").symlink_to(deeper / "nothing.png")
    with pytest.raises(FileNotFoundError, match=r"3\.png"):
        load_split(photos, "train", 32)


def test_folders_that_are_no_class_are_named(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split_files(photos, "train", 32)
    assert capsys.readouterr().err == ""
    for i in range(7):
        (photos / "train" / f"m{i}").mkdir()
    (photos / "train" / ".cache").mkdir()
    assert len(split_files(photos, "train", 32)) == 12
    expected = f"{photos}/train: left out, because *classes.json does not list them: m0, m1, m2, m3, m4 and 2 more\n"
    assert capsys.readouterr().err == expected


def test_a_folder_of_a_class_that_cannot_be_read_is_named(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "train" / "n1" / "more").mkdir()
    refuse_to_list(monkeypatch, photos / "train" / "n1" / "more")
    for read in (lambda: load_split(photos, "train", 32), lambda: labelled_images(photos / "train")):
        with pytest.raises(DataError, match=r"n1/more cannot be read \(Permission denied\): give access to it"):
            read()


def test_something_is_left_to_measure_on(photos: Path) -> None:
    """`models.train.statistics` and `recover` measured nothing, or ended in a traceback."""
    data = split_files(photos, "train", 32)
    assert len(training_part(data, 5, photos)) == 2
    with pytest.raises(ValueError, match=r"all 12 images are held out \(25 of each class\).*give more than 25"):
        training_part(data, 25, photos)


ENTRY: dict[str, object] = {"index": 0, "wnid": "n0", "name": "a kind"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is not JSON"),
        ("3", "must be a list of classes, each with index"),
        ("[3]", "3 is no class with index (whole numbers), wnid and name (texts)"),
        (json.dumps([{"index": 0, "wnid": "n0"}]), "is no class with"),
        (json.dumps([ENTRY | {"index": None}]), "is no class with"),
        (json.dumps([ENTRY | {"name": 3}]), "is no class with"),
        (json.dumps([ENTRY, ENTRY | {"index": 1}]), "lists n0 more than once: its images would have several labels"),
    ],
)
def test_a_wrong_file_of_classes_is_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        read_classes(tmp_path)
    assert str(raised.value).startswith(str(tmp_path / "classes.json"))


@pytest.mark.parametrize("row", [None, "x", -1, 0.5])
def test_the_teacher_says_what_the_file_of_classes_lacks(row: object, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(
        json.dumps([ENTRY | {} if row is None else ENTRY | {"imagenet1k_index": row}])
    )
    assert len(read_classes(tmp_path)) == 1, "our own networks need no such field"
    with pytest.raises(ValueError, match="is no class with index, imagenet1k_index"):
        load_pretrained(tmp_path)


def test_the_teacher_has_a_row_for_every_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "imagenet_network", lambda: torch.nn.ModuleDict({"_fc": torch.nn.Linear(2, 1000)}))
    (tmp_path / "classes.json").write_text(json.dumps([ENTRY | {"imagenet1k_index": 1000}]))
    with pytest.raises(ValueError, match=r"imagenet1k_index 1000 .* must be below 1000"):
        load_pretrained(tmp_path)
    entries = [ENTRY | {"index": 1, "wnid": "n1", "imagenet1k_index": 7}, ENTRY | {"imagenet1k_index": 999}]
    (tmp_path / "classes.json").write_text(json.dumps(entries))
    assert load_pretrained(tmp_path).get_submodule("_fc").weight.shape == (2, 2)


@pytest.mark.parametrize("indices", [(0, 2), (1, 1), (1, 2)])
def test_class_indices_are_labels(photos: Path, indices: tuple[int, int]) -> None:
    entries = [{"index": index, "wnid": f"n{i}", "name": f"{i}"} for i, index in enumerate(indices)]
    (photos / "classes.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match="must be 0 to 1, each once"):
        load_split(photos, "train", 32)
