"""Faults of one folder, card or file, of kinds that nobody foresaw too: the other models are served."""

from pathlib import Path

import pytest

from service.card import Card
from service.errors import ModelBrokenError
from service.registry.folder import ModelFolder
from tests.changing_zoo import refuse_to_list
from tests.test_registry import load, without_op
from tests.tiny_zoo import write_zoo


@pytest.fixture
def zoo(tmp_path) -> Path:
    return write_zoo(tmp_path / "zoo")


def test_a_subfolder_that_cannot_be_read_hides_no_other(zoo, monkeypatch):
    (zoo / "lost+found").mkdir()
    refuse_to_list(monkeypatch, zoo / "lost+found", zoo / "tiny-ramp")
    registry = load(zoo, find_backend=without_op, fallback="reference")
    assert registry.readiness().state == "ready"
    assert registry.resolve("classify", "tiny-colours").variant == "full"
    broken = registry.broken()
    assert list(broken) == ["lost+found", "tiny-ramp"]
    assert "its folder cannot be read: Permission denied" in str(broken["lost+found"])
    with pytest.raises(ModelBrokenError, match="its folder cannot be read"):
        registry.resolve("depth", "tiny-ramp")


def test_a_subfolder_of_which_nothing_can_be_told_hides_no_other(zoo, monkeypatch):
    """As on a network volume whose server has lost one folder: already the question whether it is one fails."""
    is_dir = Path.is_dir

    def stale(path: Path) -> bool:
        if path.name == "tiny-ramp":
            raise OSError(116, "Stale file handle")
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", stale)
    registry = load(zoo, find_backend=without_op, fallback="reference")
    assert registry.resolve("classify", "tiny-colours").variant == "full"
    assert "Stale file handle" in str(registry.broken()["tiny-ramp"])


def test_a_card_that_fails_in_a_way_nobody_foresaw_is_of_one_version(zoo, monkeypatch):
    read = ModelFolder.read

    def fail(folder: ModelFolder, path: Path) -> Card:
        if path.parent.name == "tiny-ramp":
            raise ZeroDivisionError
        return read(folder, path)

    monkeypatch.setattr(ModelFolder, "read", fail)
    registry = load(zoo, find_backend=without_op, fallback="reference")
    assert "ZeroDivisionError; see the service's log" in str(registry.broken()["tiny-ramp@1"])
    assert registry.resolve("classify", "tiny-colours").variant == "full"


@pytest.mark.parametrize("method", ["labels", "verify_file"])
def test_labels_and_files_that_fail_in_a_way_nobody_foresaw_affect_nobody_else(zoo, monkeypatch, method):
    owner = ModelFolder if method == "labels" else Card
    ordinary = getattr(owner, method)

    def fail(*arguments):
        if "tiny-ramp" in (arguments[-1], getattr(arguments[0], "name", None)):
            raise ZeroDivisionError
        return ordinary(*arguments)

    monkeypatch.setattr(owner, method, fail)
    registry = load(zoo, find_backend=without_op, fallback="reference")
    (broken,) = registry.broken()
    assert broken == ("tiny-ramp/labels.yaml" if method == "labels" else "tiny-ramp@1")
    assert "ZeroDivisionError; see the service's log" in str(registry.broken()[broken])
    assert registry.resolve("classify", "tiny-colours").variant == "full"
