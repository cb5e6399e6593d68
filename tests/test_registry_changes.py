"""Loading, unloading and reloading models while they are served, and paths that lead nowhere."""

import gc
import shutil
import weakref
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from service.backends import FloatBackend, backend_for
from service.errors import CardError, ModelBrokenError, ModelInUseError, NotReadyError, ServiceError, UnknownModelError
from service.registry import Changes, Entry, Registry
from service.settings import load_settings
from tests.changing_zoo import NAME, changing_zoo, opened, states, version_of, write  # noqa: F401  a fixture
from tests.tiny_zoo import CLASSIFY_SIZE, colours_graph, write_model, write_zoo

GREY = np.full((1, *CLASSIFY_SIZE, 3), 128, np.uint8)


# ---- load, unload, reload --------------------------------------------------------------------------------------------


def test_labels_that_come_with_a_new_version_hold_from_its_first_request(zoo):
    registry, changes = opened(zoo)
    write(zoo, "2")
    (zoo / NAME / "labels.yaml").write_text('default: "1"\ncanary: "2"\n')
    seen = []
    registry.observe(lambda *_: seen.append(version_of(registry)))
    changes.load(NAME)
    assert set(seen) == {"1"}  # never the new one, not even while it was put in
    assert version_of(registry, f"{NAME}@canary") == "2"


def test_a_default_that_is_not_loaded_yet_waits_for_it(zoo):
    registry, changes = opened(zoo)
    write(zoo, "2")
    write(zoo, "3")
    (zoo / NAME / "labels.yaml").write_text('default: "3"\n')
    registry.observe(lambda *_: version_of(registry))  # raises where the name stands for nothing
    changes.load(NAME, "2")
    assert version_of(registry) == "2"
    assert "version 3, which is not loaded" in str(registry.broken()[f"{NAME}/labels.yaml"])
    changes.load(NAME, "3")
    assert version_of(registry) == "3"
    assert registry.broken() == {}


def test_load_takes_labels_up_where_nothing_else_is_new(zoo):
    registry, changes = opened(zoo)
    changes.load(NAME)
    (zoo / NAME / "labels.yaml").write_text('stable: "1"\n')
    changes.load(NAME)
    assert version_of(registry, f"{NAME}@stable") == "1"


def test_a_new_version_that_does_not_run_is_not_called_loaded(zoo, caplog):
    _, changes = opened(zoo)
    (write(zoo, "2") / "model.onnx").write_bytes(b"no model")
    with caplog.at_level("INFO"), pytest.raises(ModelBrokenError):
        changes.load(NAME)
    assert f"model {NAME}@2 was loaded" not in caplog.text


def test_load_and_unload_a_version(zoo):
    registry, changes = opened(zoo)
    write(zoo, "2")
    assert states(changes)[f"{NAME}@2"] == "unloaded"
    changes.load(NAME)
    assert states(changes)[f"{NAME}@2"] == "ready"
    assert version_of(registry) == "2"
    changes.unload(NAME, "2")
    assert version_of(registry) == "1"
    assert states(changes)[f"{NAME}@2"] == "unloaded"
    changes.load(NAME, "2")
    assert version_of(registry) == "2"


def test_a_model_without_versions_is_none(zoo):
    (zoo / "empty").mkdir()
    _, changes = opened(zoo)
    for act in (changes.load, changes.reload):
        with pytest.raises(UnknownModelError, match="empty"):
            act("empty")


def test_requests_that_name_no_model_go_to_another_one_by_force_only(tmp_path):
    registry, changes = opened(write_zoo(tmp_path))
    assert registry.default("classify") == "tiny-bireal"
    with pytest.raises(ModelInUseError, match="tiny-colours would answer requests"):
        changes.unload("tiny-bireal")
    assert registry.default("classify") == "tiny-bireal"
    changes.unload("tiny-bireal", force=True)
    assert registry.default("classify") == "tiny-colours"
    changes.load("tiny-bireal")
    changes.unload("tiny-colours")  # it answers for no other


def test_what_is_needed_is_unloaded_by_force_only(zoo):
    registry, changes = opened(zoo)
    with pytest.raises(ModelInUseError, match="/classify"):
        changes.unload(NAME)
    assert registry.readiness().state == "ready"
    changes.unload(NAME, force=True)
    with pytest.raises(UnknownModelError):
        version_of(registry)
    assert registry.resolve("depth", "tiny-ramp").model.run(np.zeros((1, 24, 80, 3), np.uint8)).shape == (1, 24, 80)
    changes.load(NAME)
    assert version_of(registry) == "1"


def test_while_a_model_is_unloaded_no_older_version_takes_its_requests(zoo):
    write(zoo, "2")
    registry, changes = opened(zoo)
    assert version_of(registry) == "2"
    took = []

    def retired(_: Entry) -> None:
        with suppress(UnknownModelError):
            took.append(version_of(registry))

    registry.observe(lambda *_: None, retired)
    changes.unload(NAME, force=True)
    assert set(took) <= {"2"}


def test_reload_takes_what_the_folder_has_now(zoo):
    registry, changes = opened(zoo)
    before = registry.resolve("classify", NAME)
    shutil.rmtree(zoo / NAME / "1")
    write_model(
        zoo, NAME, colours_graph(), task="classify", classes=[{"wnid": f"n{i}", "name": f"new {i}"} for i in range(3)]
    )
    changes.reload(NAME)
    after = registry.resolve("classify", NAME)
    assert after.card.classes[0].name == "new 0"
    assert after.model is not before.model
    assert before.model.run(GREY).shape == (1, 3), "who has the old network still runs it"


@pytest.mark.parametrize("how", ["file", "card"])
def test_a_reload_that_fails_leaves_the_old_one(zoo, how):
    registry, changes = opened(zoo)
    before = registry.resolve("classify", NAME)
    broken = zoo / NAME / "1" / ("model.onnx" if how == "file" else "card.yaml")
    kept = broken.read_bytes()
    broken.write_bytes(b"\0")
    with pytest.raises(ModelBrokenError if how == "file" else CardError):
        changes.reload(NAME)
    assert registry.resolve("classify", NAME) is before
    assert f"{NAME}@1" in registry.broken()
    (state,) = changes.states(NAME)
    assert (state.state, state.reason is not None) == ("ready", True)
    broken.write_bytes(kept)
    changes.reload(NAME)
    assert f"{NAME}@1" not in registry.broken()


class FloatForBinary(FloatBackend):
    """Runs `binary` as `reference`, so that the test needs no operator; fails when told to."""

    failing = False

    def load(self, card, variant, *, intra_op_threads):
        if variant == "binary" and self.failing:
            raise ModelBrokenError(card.name, "binary does not load.")
        return super().load(card, "reference" if variant == "binary" else variant, intra_op_threads=intra_op_threads)


def test_a_reload_that_loses_a_variant_leaves_the_old_one(tmp_path):
    backend = FloatForBinary()
    settings = load_settings({"model_dir": write_zoo(tmp_path), "intra_op_threads": 1})
    registry = Registry(settings, find_backend=lambda _: backend)
    registry.load()
    changes = Changes(registry)
    before = registry.resolve("classify", "tiny-bireal", "binary")
    backend.failing = True  # its `reference` would still load
    with pytest.raises(ModelBrokenError, match="binary does not load"):
        changes.reload("tiny-bireal")
    assert registry.resolve("classify", "tiny-bireal", "binary") is before
    assert registry.readiness().state == "ready"
    (state,) = changes.states("tiny-bireal")
    assert (state.state, "binary does not load" in (state.reason or "")) == ("ready", True)
    backend.failing = False
    changes.reload("tiny-bireal")
    assert registry.resolve("classify", "tiny-bireal", "binary") is not before


def test_an_old_network_is_freed_once_nobody_runs_it(zoo):
    registry, changes = opened(zoo)
    handle = registry.resolve("classify", NAME)
    model = weakref.ref(handle.model)
    changes.reload(NAME)
    gc.collect()
    assert model() is not None
    del handle
    gc.collect()
    assert model() is None


def test_whoever_watches_hears_of_all_of_it(zoo):
    registry, changes = opened(zoo)
    heard: list[str] = []
    registry.observe(
        lambda card, variant, handle, seconds: heard.append(f"+{card.version} {handle is not None}"),
        lambda entry: heard.append(f"-{entry.card.version}"),
    )
    heard.clear()
    changes.reload(NAME)
    write(zoo, "2")
    changes.load(NAME)
    changes.unload(NAME, "1")
    assert heard == ["-1", "+1 True", "+2 True", "-1"]


def test_nothing_is_changed_before_all_is_loaded(zoo):
    registry = Registry(load_settings({"model_dir": zoo}))
    with pytest.raises(NotReadyError):
        Changes(registry).load(NAME)


# ---- paths that lead nowhere -----------------------------------------------------------------------------------------

NOWHERE = [
    "..",
    ".",
    "",
    "../" + NAME,
    "/etc",
    f"{NAME}/1",
    "%2e%2e",
    "a\0b",
    "A",
    "-x",
    "x" * 65,
    ".hidden",
    "\\..\\x",
]


@pytest.mark.parametrize("name", NOWHERE)
def test_names_are_never_paths(zoo, name):
    (zoo.parent / "labels.yaml").write_text("x: 1\n")
    _, changes = opened(zoo)
    with pytest.raises(UnknownModelError):
        changes.states(name)
    for act in (changes.load, changes.reload, changes.unload):
        with pytest.raises(UnknownModelError):
            act(name)
        with pytest.raises(UnknownModelError):
            act(NAME, name or "?")


@pytest.mark.parametrize("what", ["model", "version", "file", "card"])
def test_links_that_lead_out_of_the_folder(zoo, tmp_path_factory, what):
    outside = tmp_path_factory.mktemp("outside")
    write(outside, "2")
    place = zoo / NAME / "2"
    if what == "model":
        (zoo / "linked").symlink_to(outside / NAME)
        label = "linked@2"
    elif what == "version":
        place.symlink_to(outside / NAME / "2")
        label = f"{NAME}@2"
    else:
        shutil.copytree(outside / NAME / "2", place)
        inner = place / ("model.onnx" if what == "file" else "card.yaml")
        inner.unlink()
        inner.symlink_to(outside / NAME / "2" / inner.name)
        label = f"{NAME}@2"
    registry, changes = opened(zoo)
    assert "leads out of the folder" in str(registry.broken()[label])
    assert version_of(registry) == "1"
    with pytest.raises(ModelBrokenError, match="leads out"):
        changes.load(*label.split("@"))


def test_links_inside_the_folder_are_followed(zoo):
    """As a mounted volume of Kubernetes has them: the whole tree once more under a hidden name."""
    (zoo / "..data").mkdir()
    shutil.move(zoo / NAME, zoo / "..data" / NAME)
    (zoo / NAME).symlink_to(Path("..data") / NAME)
    registry, _ = opened(zoo)
    assert version_of(registry) == "1"


def test_errors_are_service_errors_with_a_remedy(zoo):
    _, changes = opened(zoo)
    with pytest.raises(ServiceError) as caught:
        changes.unload(NAME)
    assert "force=true" in caught.value.remedy
    assert caught.value.status == 409


# ---- the end of the service ------------------------------------------------------------------------------------------


def test_a_change_under_way_ends_with_the_service_and_changes_nothing(tmp_path):
    tried, loaded, stopping = [], [], False

    class Noting(FloatBackend):
        def load(self, *args, **options):
            loaded.append(super().load(*args, **options))
            return loaded[-1]

    def find(variant):
        tried.append(variant)
        if stopping:
            registry.stop_loading()
            return Noting()
        return backend_for(variant)

    registry = Registry(load_settings({"model_dir": write_zoo(tmp_path), "intra_op_threads": 1}), find_backend=find)
    registry.load()
    changes, served = Changes(registry), registry.resolve("classify", "tiny-bireal", "reference")
    tried.clear()
    stopping = True
    with pytest.raises(NotReadyError, match="shutting down"):
        changes.reload("tiny-bireal")
    assert len(tried) == 1, "no variant was begun after the stop"
    assert registry.resolve("classify", "tiny-bireal", "reference") is served
    assert registry.broken() == {}
    for network in loaded:
        with pytest.raises(ServiceError):  # it was released
            network.run(np.zeros((1, *CLASSIFY_SIZE, 3), np.uint8))
    with pytest.raises(NotReadyError, match="shutting down"):
        changes.unload("tiny-bireal", force=True)
