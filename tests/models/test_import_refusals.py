"""Imported checkpoints: files and places that are refused, and what becomes of a checkpoint that an import wrote."""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from models.arch import ArchConfig
from models.export.__main__ import main as export
from models.export.__main__ import unknown_recipe
from models.export.options import check_unused
from models.import_official.__main__ import main
from models.import_official.reading import read_state_dict
from models.train import checkpoint
from service.card import Card
from tests.models.test_import_official import State, official_basic


@pytest.fixture(scope="module")
def bireal18() -> State:
    return official_basic(18)


IMAGE = b"\xff\xd8\xff\xe0\0\x10JFIF\0"
PAGE = b"<!DOCTYPE html><html><title>404</title></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
TENSORS = b'\x08\0\0\0\0\0\0\0{"a":{}}'
GRAPH = b"\x08\x08\x12\x0cbireal-serve"
GIVE = "give the file in which the training code saved"


@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        (b"", "it is empty", "copy or download it again"),
        (bytes(99), "it holds only zeros", "copy or download it again"),
        (IMAGE, "it looks like a JPEG image", GIVE),
        (b"%PDF-1.7", "it looks like a PDF document", GIVE),
        (PAGE, "it looks like an HTML page", "download the file itself"),
        (POINTER, "it looks like a pointer of Git LFS", "run `git lfs pull`"),
        (TENSORS, "it looks like a safetensors file", r"safetensors\.torch\.load_file\('x\.pth'\)"),
        (GRAPH, "it looks like an ONNX graph", "python -m models.train.recover"),
        (b"\x89HDF\r\n\x1a\n", "it looks like an HDF5 file", GIVE),
        (b"\x1f\x8b\x08", "it looks like a gzip archive", "unpack it"),
        (bytes(1) + b"x" * 256 + b"ustar", "it looks like a tar archive", "unpack it"),
        (b"PK\3\4", "it looks like a damaged ZIP archive", GIVE),
        (pickle.dumps({"a": 1}), "it looks like a pickle of another program", r"save `model\.state_dict\(\)`"),
        (b"\x80\x02", "it looks like a pickle of another program", r"save `model\.state_dict\(\)`"),
        (b"\xf7\x01\x02", "it looks like binary data of no known format", GIVE),
        *((text, "it looks like text", GIVE) for text in (b"junk", b"hello world", b"]a.", b"t.", b"0", b"(lp0\nh1.")),
    ],
    ids=lambda value: value[:8].hex() if isinstance(value, bytes) else value.rpartition(" ")[2],
)
def test_a_file_that_is_no_checkpoint_is_told_what_it_looks_like(
    content: bytes, what: str, remedy: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.pth is not a PyTorch checkpoint: {what}.*: .*{remedy}"):
        read_state_dict(path)
    with pytest.raises(ValueError, match="is not a PyTorch checkpoint") as refused:
        checkpoint.load(path)
    assert ("give a checkpoint of models.train, such as RUN/best.pt" in str(refused.value)) == (remedy == GIVE)


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "legacy"])
def test_a_checkpoint_that_was_cut_short_is_damaged(archive: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=archive)
    assert read_state_dict(path)["a"].shape == (1000,)
    path.write_bytes(path.read_bytes()[:2000])
    for read in (read_state_dict, checkpoint.load):
        with pytest.raises(ValueError, match=r"is a damaged PyTorch checkpoint \(.*\): copy or download it again"):
            read(path)


def test_archives_of_other_kinds_are_told(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes/readme.txt", "no weights")
    with pytest.raises(ValueError, match="looks like a ZIP archive of other files: unpack it"):
        read_state_dict(path)
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(path)
    recwarn.clear()
    with pytest.raises(ValueError, match=r"looks like a TorchScript archive: .*torch\.jit\.load") as refused:
        read_state_dict(path)
    assert "weights_only" not in str(refused.value) and not recwarn, "advice to let the file run code"
    with pytest.raises(ValueError, match=r"is a folder: give a checkpoint of .* RUN/best\.pt"):
        checkpoint.load(tmp_path)


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        read_state_dict(path)
    torch.save({"model": Path("x")}, path)
    for read in (read_state_dict, checkpoint.load):
        with pytest.raises(
            ValueError, match=r"it holds an object of pathlib.* besides tensors .*state_dict"
        ) as refused:
            read(path)
        assert "weights_only" not in str(refused.value), "advice to let the file run code"
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="holds a list"):
        read_state_dict(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match="not tensors: epoch"):
        read_state_dict(path)
    plain = torch.zeros(2, 2)
    for strange in (plain.to_sparse(), plain.to(torch.complex64), plain.to("meta")):
        torch.save({"fc.weight": strange, "fc.bias": plain}, path)
        with pytest.raises(ValueError, match=r"not dense real CPU tensors: fc\.weight"):
            read_state_dict(path)
    torch.save({"module.fc.bias": plain, "fc.weight": plain, "fc.bias": plain + 1}, path)
    with pytest.raises(ValueError, match=r"has fc\.bias twice, with and without a prefix"):
        read_state_dict(path)


def test_a_checkpoint_of_another_program_or_version_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.pt"
    arch = ArchConfig(num_classes=2, width=0.125)
    checkpoint.save(path, torch.nn.Linear(1, 1), arch, "a recipe", checkpoint.Progress())
    whole = checkpoint.load(path)
    for change, message in (
        ({"recipe": None}, "is not a checkpoint of models.train (it lacks recipe): convert another program's weights"),
        ({"arch": whole["arch"] | {"colour": 1}}, "unexpected keyword argument 'colour'): use the version"),
        ({"arch": whole["arch"] | {"depth": 99}}, "depth 99 is not one of"),
        ({"progress": {"hours": 1}}, "unexpected keyword argument 'hours'): use the version"),
    ):
        changed = {key: value for key, value in (whole | change).items() if value is not None}
        torch.save(changed, path)
        monkeypatch.setattr(sys, "argv", ["x", str(path), "--out", str(tmp_path / "zoo")])
        assert export() == 2
        assert message in capsys.readouterr().err


def test_places_that_cannot_be_written_are_said_before_the_import(
    bireal18: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(bireal18, path)
    for options, message in (
        (["--out", str(path)], f"--out {path} is a file: give a folder"),
        (["--out", str(tmp_path / "zoo"), "--checkpoint-out", str(tmp_path)], "is a folder: give a file name"),
        (["--out", str(path / "zoo"), "--size", "32"], "Not a directory"),
        (
            ["--out", str(tmp_path / "zoo"), "--size", "32", "--name", "A B"],
            "card would be invalid: name: String should",
        ),
    ):
        assert main([str(path), "--depth", "18", *options]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line
        assert not (tmp_path / "zoo").exists()


def test_a_model_is_replaced_only_if_that_is_asked_for(
    bireal18: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another checkpoint of the same depth gets the same name, and is not told apart from the same one again."""
    path, zoo, start = tmp_path / "weights.pth", tmp_path / "zoo", tmp_path / "start.pt"
    torch.save(bireal18, path)
    line = [str(path), "--depth", "18", "--out", str(zoo), "--size", "32"]
    folder = zoo / "bireal18-imported"
    (folder / "1").mkdir(parents=True)
    for version, file in (("1", "card.yaml"), ("10", "model.onnx"), ("draft", "notes.txt")):
        (folder / version).mkdir(exist_ok=True)
        (folder / version / file).write_text("another's")
    for version in ("1", "10"):
        assert main([*line, "--version", version]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said == (
            f"error: {folder / version} already holds a model: add this one beside it with --version 11 or another "
            "--name, or replace it with --overwrite"
        )
    start.write_text("another's")
    assert main([*line, "--version", "2", "--checkpoint-out", str(start)]) == 2
    assert f"--checkpoint-out {start} exists: give another name, or replace it" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "card.yaml",
        "model.onnx",
        "notes.txt",
        "start.pt",
        "weights.pth",
    ]
    assert main([*line, "--overwrite", "--checkpoint-out", str(start)]) == 0
    Card.load(folder / "1").verify_file()
    assert checkpoint.load(start)["recipe"] == "imported"
    check_unused(zoo, folder.name, "draft", overwrite=False)  # there is no model to replace


def test_an_imported_checkpoint_can_be_exported(
    bireal18: State, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, start, zoo = tmp_path / "weights.pth", tmp_path / "start.pt", tmp_path / "zoo"
    torch.save(bireal18, path)
    options = ["--out", str(tmp_path / "a"), "--size", "32", "--checkpoint-out", str(start)]
    assert main([str(path), "--depth", "18", *options]) == 0
    monkeypatch.setattr(sys, "argv", ["x", str(start), "--out", str(zoo)])
    assert export() == 0
    capsys.readouterr()
    card = Card.load(zoo / "imported" / "1")
    assert export() == 2
    assert "imported/1 already holds a model: add this one beside it with --version 2" in capsys.readouterr().err
    sys.argv += ["--overwrite"]
    assert export() == 0
    assert card.input == Card.load(tmp_path / "a" / "bireal18-imported" / "1").input
    assert (len(card.classes), card.input.resize_shorter, card.training.command) == (1000, 37, "not known")
    assert "Not trained by a recipe of models.train" in card.limits[0]
    card.verify_file()
    payload = checkpoint.load(start)
    torch.save(payload | {"settings": None}, start)  # as imports wrote them before
    assert export() == 2
    assert "recipe 'imported' is unknown: give the input size with --size" in capsys.readouterr().err
    recipe = unknown_recipe("imported", ArchConfig(**payload["arch"]), 224)
    assert (recipe.size, recipe.resize_shorter) == (224, 256)
