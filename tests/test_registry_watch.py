"""The watch of the model folder."""

import os
import shutil
from pathlib import Path

import pytest

from service.errors import ModelBrokenError, UnknownModelError
from tests.changing_zoo import (
    NAME,
    changing_zoo,  # noqa: F401  a fixture
    opened,
    refuse_to_list,
    states,
    version_of,
    write,
)
from tests.tiny_zoo import colours_graph, write_model


def test_the_watch_takes_new_versions_and_labels(zoo):
    registry, changes = opened(zoo)
    changes.refresh()
    assert version_of(registry) == "1"
    write(zoo, "2")
    changes.refresh()
    assert version_of(registry) == "2"
    (zoo / NAME / "labels.yaml").write_text("default: 1\n")
    changes.refresh()
    assert version_of(registry) == "1"
    changes.set_label(NAME, "default", "2")
    changes.refresh()
    assert version_of(registry) == "2", "a file that has not changed does not undo what was done by hand"


def test_the_watch_tries_what_was_broken_again_when_it_changes(zoo, caplog):
    registry, changes = opened(zoo)
    folder = write(zoo, "2")
    good = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(good[:100])  # still being copied
    changes.refresh()
    assert version_of(registry) == "1"
    said = len(caplog.records)
    changes.refresh()
    assert len(caplog.records) == said, "not tried again as long as nothing changes"
    (folder / "model.onnx").write_bytes(good)
    changes.refresh()
    assert version_of(registry) == "2"


def test_the_watch_tries_again_what_was_copied_to_its_end_during_the_attempt(zoo, monkeypatch):
    registry, changes = opened(zoo)
    folder = write(zoo, "2")
    good = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(good[:100])
    fill = registry.loader.fill

    def slow(*args, **options):
        fill(*args, **options)
        (folder / "model.onnx").write_bytes(good)

    with monkeypatch.context() as while_copying:
        while_copying.setattr(registry.loader, "fill", slow)
        changes.refresh()
    assert version_of(registry) == "1"
    changes.refresh()
    assert version_of(registry) == "2"


def test_the_watch_notices_what_was_replaced_by_files_of_the_same_time(zoo):
    """As archives and reproducible builds have them, and copies that keep the time."""
    registry, changes = opened(zoo)

    def of_one_time() -> None:
        for path in (zoo / NAME).rglob("*"):
            os.utime(path, (0, 0))

    folder = write(zoo, "2")
    good = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(good[:100])
    (zoo / NAME / "labels.yaml").write_text('stable: "1"\n')
    of_one_time()
    changes.refresh()
    assert version_of(registry) == "1"
    (folder / "model.onnx").write_bytes(good)
    (zoo / NAME / "labels.yaml").write_text('stable: "1"\ncanary: "2"\n')
    of_one_time()
    changes.refresh()
    assert version_of(registry) == "2"
    assert version_of(registry, f"{NAME}@canary") == "2"


def test_the_watch_leaves_what_was_unloaded_by_hand(zoo):
    registry, changes = opened(zoo)
    write(zoo, "2")
    changes.load(NAME)
    changes.unload(NAME, "2")
    changes.refresh()
    assert version_of(registry) == "1"


@pytest.mark.parametrize("mount_point", [False, True], ids=["gone", "empty"])
def test_what_is_in_memory_is_served_as_before_while_the_folder_is_away(zoo, mount_point):
    """As while a volume is not mounted."""
    write(zoo, "2")
    (zoo / NAME / "labels.yaml").write_text('default: "1"\n')
    registry, changes = opened(zoo)
    shutil.move(zoo, zoo.with_name("away"))
    if mount_point:
        zoo.mkdir()
    changes.refresh()
    assert version_of(registry) == "1", "its label is not dropped, or the canary would get all requests"
    assert (registry.readiness().state, registry.readiness().reasons) == ("ready", ())


def test_a_folder_that_is_away_is_told(zoo):
    _, changes = opened(zoo)
    shutil.rmtree(zoo)
    for act in (lambda: changes.load(NAME), lambda: changes.reload(NAME)):
        with pytest.raises(ModelBrokenError, match="cannot be read: No such file or directory"):
            act()


def test_a_label_goes_with_its_file_though_the_model_stays(zoo):
    (zoo / NAME / "labels.yaml").write_text('stable: "1"\n')
    registry, changes = opened(zoo)
    (zoo / NAME / "labels.yaml").unlink()
    changes.refresh()
    with pytest.raises(UnknownModelError):
        version_of(registry, f"{NAME}@stable")


def test_a_folder_that_cannot_be_read_is_told(zoo, monkeypatch):
    registry, changes = opened(zoo)

    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)  # root may read everything, and tests may run as root
    for act in (changes.states, lambda: changes.load(NAME), lambda: changes.reload(NAME)):
        with pytest.raises(ModelBrokenError, match="cannot be read: Permission denied"):
            act()
    changes.refresh()
    assert version_of(registry) == "1"


@pytest.fixture
def unreadable(monkeypatch):
    """The folder of models cannot be read until the returned function is called."""

    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", refuse)  # root may read everything, and tests may run as root
        yield patch.undo


@pytest.mark.parametrize("by", ["the watch", "administrators"])
def test_a_folder_that_could_not_be_read_at_the_start_is_forgiven(zoo, unreadable, by):
    registry, changes = opened(zoo)
    assert registry.readiness().state == "failed"
    assert registry.readiness().reasons == ("The model folder cannot be read: Permission denied.",)
    changes.refresh()
    assert registry.readiness().state == "failed"
    unreadable()
    if by == "the watch":
        changes.refresh()
    else:
        changes.load(NAME)
        changes.load("tiny-ramp")
    assert version_of(registry) == "1"
    assert (registry.readiness().state, registry.readiness().reasons) == ("ready", ())


def test_what_is_missing_is_said_of_the_folder_as_it_was_read_last(tmp_path, unreadable):
    registry, changes = opened(tmp_path)
    unreadable()
    changes.refresh()
    assert "holds no model" in registry.readiness().reasons[0]
    (tmp_path / NAME / "1").mkdir(parents=True)
    changes.refresh()
    assert "card" in registry.readiness().reasons[0]


def test_the_watch_notes_subfolders_that_cannot_be_read_and_that_can_again(zoo, monkeypatch, caplog):
    registry, changes = opened(zoo)
    (zoo / "lost+found").mkdir()
    write(zoo, "2")
    with monkeypatch.context() as unreadable:
        refuse_to_list(unreadable, zoo / "lost+found", zoo / "tiny-ramp")
        changes.refresh()
        changes.refresh()
        assert version_of(registry) == "2", "the others are followed"
        assert list(registry.broken()) == ["lost+found", "tiny-ramp"]
        assert registry.readiness().state == "ready", "what is in memory is served"
        with pytest.raises(ModelBrokenError, match="tiny-ramp: its folder cannot be read"):
            changes.reload("tiny-ramp")
        assert states(changes)["tiny-ramp@1"] == "ready"
    assert sum("was skipped" in record.message for record in caplog.records) == 2, "once for each"
    changes.refresh()
    assert registry.broken() == {}


def test_an_empty_folder_says_so_whatever_else_is_in_it(tmp_path, monkeypatch):
    (tmp_path / "lost+found").mkdir()
    refuse_to_list(monkeypatch, tmp_path / "lost+found")
    registry, _ = opened(tmp_path)
    assert registry.readiness().state == "failed"
    assert "holds no model" in registry.readiness().reasons[0]
    assert "lost+found" in registry.readiness().reasons[1]


def without_card(zoo: Path) -> None:
    (zoo / "oops" / "1").mkdir(parents=True)


def with_damaged_file(zoo: Path) -> None:
    folder = write_model(zoo, "oops", colours_graph(), task="classify")
    (folder / "model.onnx").write_bytes(b"no model")


@pytest.mark.parametrize("broken", [without_card, with_damaged_file])
@pytest.mark.parametrize("by", ["the watch", "administrators"])
def test_a_failed_version_that_was_deleted_is_forgotten(zoo, by, broken):
    registry, changes = opened(zoo)
    shown: set[str] = set()
    registry.observe(lambda card, *_: shown.add(card.name), lambda entry: shown.discard(entry.card.name))
    broken(zoo)
    changes.refresh()
    assert states(changes)["oops@1"] == "failed"
    with pytest.raises(ModelBrokenError):
        registry.resolve("classify", "oops")
    changes.refresh()
    assert states(changes)["oops@1"] == "failed", "it is still there"
    shutil.rmtree(zoo / "oops")
    if by == "the watch":
        changes.refresh()
    else:
        changes.unload("oops")
    assert "oops@1" not in states(changes)
    assert registry.broken() == {}
    assert "oops" not in shown, "or its gauges would raise an alert until the service stops"
    with pytest.raises(UnknownModelError):
        registry.resolve("classify", "oops")
    with pytest.raises(UnknownModelError):
        changes.unload("oops")
    broken(zoo)
    changes.refresh()
    assert states(changes)["oops@1"] == "failed", "tried again once it is back"


def test_what_failed_is_forgotten_by_its_version(zoo):
    _, changes = opened(zoo)
    for version in ("1", "2"):
        (zoo / "oops" / version).mkdir(parents=True)
    changes.refresh()
    shutil.rmtree(zoo / "oops" / "1")
    changes.unload("oops", "1")
    assert states(changes)["oops@2"] == "failed"
    with pytest.raises(UnknownModelError):
        changes.unload("oops", "2")  # it is in the folder, and was never loaded
