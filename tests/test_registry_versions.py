"""Several versions of a model at once, and labels that point to them."""

import pytest

from service.errors import BadParameterError, ModelBrokenError, UnknownModelError, UnknownVersionLabelError
from tests.changing_zoo import NAME, changing_zoo, opened, states, version_of, write  # noqa: F401  a fixture
from tests.tiny_zoo import ramp_graph, write_model


def test_several_versions_at_once_and_the_newest_by_default(zoo):
    write(zoo, "10")
    write(zoo, "9")
    registry, _ = opened(zoo)
    assert version_of(registry) == "10"
    assert [version_of(registry, f"{NAME}@{version}") for version in ("1", "9", "10")] == ["1", "9", "10"]
    assert registry.versions(NAME) == ["10", "9", "1"]
    assert [registry.is_default(entry) for entry in registry.catalog.entries[NAME]] == [True, False, False]


def test_labels_of_the_file_and_moved_by_hand(zoo):
    write(zoo, "2")
    (zoo / NAME / "labels.yaml").write_text('default: "1"\ncanary: 2\n')
    registry, changes = opened(zoo)
    assert version_of(registry) == "1"
    assert version_of(registry, f"{NAME}@canary") == "2"
    changes.set_label(NAME, "default", "2")
    changes.set_label(NAME, "stable", "1")
    assert version_of(registry) == "2"
    assert version_of(registry, f"{NAME}@stable") == "1"
    assert {state.version: state.labels for state in changes.states(NAME)} == {
        "1": ("stable",),
        "2": ("canary", "default"),
    }
    changes.remove_label(NAME, "canary")
    with pytest.raises(UnknownModelError):
        version_of(registry, f"{NAME}@canary")
    with pytest.raises(UnknownVersionLabelError, match="default, stable"):
        changes.remove_label(NAME, "canary")


@pytest.mark.parametrize(
    ("label", "version", "error"),
    [
        ("1", "1", BadParameterError),
        ("../up", "1", BadParameterError),
        ("", "1", BadParameterError),
        ("Stable", "1", BadParameterError),
        ("stable", "7", UnknownModelError),
        ("stable", "../1", UnknownModelError),
    ],
)
def test_labels_that_are_refused(zoo, label, version, error):
    _, changes = opened(zoo)
    with pytest.raises(error):
        changes.set_label(NAME, label, version)


@pytest.mark.parametrize("text", ["- 1\n", "default: ../1\n", "a: [\n", "../x: 1\n", "a: [1]\n", "a:\n", "[a]: 1\n"])
def test_a_bad_file_of_labels_is_told_and_harms_nobody(zoo, text):
    (zoo / NAME / "labels.yaml").write_text(text)
    registry, _ = opened(zoo)
    assert version_of(registry) == "1"
    assert "labels.yaml" in str(registry.broken()[f"{NAME}/labels.yaml"])


def test_labels_are_read_as_they_are_written(zoo):
    """As numbers, 1.10 and 1.1 would be one version, and 010 would be 8."""
    write(zoo, "1.10")
    write(zoo, "2024-13-45")
    (zoo / NAME / "labels.yaml").write_text("stable: 1.10\nnext: 2024-13-45\nyes: 1\n")
    registry, _ = opened(zoo)
    labels = ("stable", "next", "yes")
    assert [version_of(registry, f"{NAME}@{label}") for label in labels] == ["1.10", "2024-13-45", "1"]


def test_a_default_that_is_not_there_is_not_replaced_in_silence(zoo):
    (zoo / NAME / "labels.yaml").write_text("default: 7\n")
    registry, _ = opened(zoo)
    with pytest.raises(UnknownModelError):
        version_of(registry)
    assert registry.readiness().state == "failed"


def test_a_broken_new_version_takes_down_nobody(zoo):
    (write(zoo, "2") / "model.onnx").write_bytes(b"\0")
    registry, changes = opened(zoo)
    assert version_of(registry) == "1"
    assert registry.readiness().state == "ready"
    assert "sha256" in str(registry.broken()[f"{NAME}@2"])
    with pytest.raises(ModelBrokenError, match="sha256"):
        version_of(registry, f"{NAME}@2")
    with pytest.raises(ModelBrokenError, match="sha256"):
        changes.set_label(NAME, "stable", "2")


def test_a_version_of_another_task_is_broken_and_the_others_are_served(zoo):
    """A name is resolved by the task of its newest version: the others would be answered for no more."""
    registry, changes = opened(zoo)
    write_model(zoo, NAME, ramp_graph(), version="10", task="depth")
    changes.refresh()
    for _ in range(2):  # as a new version, and at the next start
        assert version_of(registry) == version_of(registry, NAME) == "1"
        assert registry.find(f"{NAME}@1").card.task == "classify"
        assert registry.readiness().state == "ready"
        assert "task depth" in str(registry.broken()[f"{NAME}@10"])
        registry, changes = opened(zoo)
    with pytest.raises(ModelBrokenError, match=f"{NAME}@1 .*classify"):
        changes.load(NAME, "10")


def test_a_label_of_a_version_that_is_not_loaded_is_not_offered(zoo):
    write(zoo, "2")
    (zoo / NAME / "labels.yaml").write_text('default: "1"\ncanary: 2\n')
    registry, changes = opened(zoo)
    changes.unload(NAME, "2")
    with pytest.raises(UnknownModelError) as refused:
        version_of(registry, f"{NAME}@canary")
    assert "canary" not in refused.value.remedy
    assert f"{NAME}@default" in refused.value.remedy
