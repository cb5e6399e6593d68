"""The registry: what is loaded, what is refused, and which network answers which request.

Models, cards and sessions are real; only the backends that have to fail are made for it.
"""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from service import xnor_op
from service.backends import backend_for
from service.card import version_key
from service.errors import (
    CardError,
    ModelBrokenError,
    NoModelError,
    NotReadyError,
    OpUnavailableError,
    ServiceError,
    UnknownModelError,
    UnknownVariantError,
    VariantNotServedError,
)
from service.registry import Changes, Registry
from service.settings import load_settings
from tests.tiny_zoo import CLASSIFY_SIZE, colours_graph, write_model, write_zoo


class NoOp:
    """The bit-packed backend of a machine on which the op does not load."""

    name = "bitpacked"

    def load(self, *_, **__):
        raise OpUnavailableError("The operator library was not found.")


def without_op(variant: str):
    return NoOp() if variant == "binary" else backend_for(variant)


@pytest.fixture(scope="module")
def shared_zoo(tmp_path_factory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def zoo(shared_zoo, tmp_path) -> Path:
    """A copy that a test may break."""
    return shutil.copytree(shared_zoo, tmp_path / "zoo")


def load(zoo: Path, **options) -> Registry:
    find_backend = options.pop("find_backend", backend_for)
    registry = Registry(load_settings({"model_dir": zoo, **options}), find_backend=find_backend)
    registry.load()
    return registry


def edit_card(folder: Path, **changes) -> None:
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def replace_model(folder: Path, content: bytes) -> None:
    (folder / "model.onnx").write_bytes(content)
    edit_card(folder, sha256=hashlib.sha256(content).hexdigest())


# ---- resolution ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registry(shared_zoo, op) -> Registry:
    return load(shared_zoo)


@pytest.mark.parametrize(
    ("model", "variant", "ran"),
    [
        (None, None, ("tiny-bireal", "binary")),
        (None, "binary", ("tiny-bireal", "binary")),
        (None, "reference", ("tiny-bireal", "reference")),
        (None, "full", ("tiny-colours", "full")),
        ("tiny-bireal", "full", ("tiny-colours", "full")),
        ("tiny-bireal@1", "binary", ("tiny-bireal", "binary")),
        ("tiny-colours", None, ("tiny-colours", "full")),
        ("tiny-colours", "full", ("tiny-colours", "full")),
    ],
)
def test_a_request_finds_its_network(registry, model, variant, ran):
    handle = registry.resolve("classify", model, variant)
    assert (handle.card.name, handle.variant) == ran
    assert handle.fallback is None
    output = handle.model.run(np.zeros((2, *CLASSIFY_SIZE, 3), np.uint8))
    assert output.shape == (2, 3)


def test_the_kernel_is_named(registry):
    assert registry.resolve("classify", variant="binary").kernel == xnor_op.kernel_name()
    assert registry.resolve("classify", variant="full").kernel == "onnxruntime"


def test_a_twin_asked_for_by_either_name_is_one_session(registry):
    assert (
        registry.resolve("classify", "tiny-bireal", "full").model is registry.resolve("classify", "tiny-colours").model
    )


def test_binary_of_a_full_precision_model_names_its_counterpart(registry):
    with pytest.raises(VariantNotServedError) as caught:
        registry.resolve("classify", "tiny-colours", "binary")
    assert caught.value.extensions["counterpart"] == "tiny-bireal"
    assert "tiny-bireal" in str(caught.value)


def test_unknown_names_are_told_what_there_is(registry):
    with pytest.raises(UnknownModelError, match="tiny-bireal, tiny-colours"):
        registry.resolve("classify", "nothing")
    with pytest.raises(UnknownVariantError, match="binary, reference, full"):
        registry.resolve("classify", variant="ternary")
    with pytest.raises(UnknownModelError, match="Did you mean 'tiny-bireal'"):
        registry.resolve("classify", "Tiny_BiReal")
    with pytest.raises(UnknownVariantError, match="Did you mean 'reference'"):
        registry.resolve("classify", variant="reference ")
    with pytest.raises(UnknownModelError):
        registry.resolve("classify", "tiny-bireal@2")


def test_a_version_that_was_left_empty_is_not_the_default_one(registry):
    with pytest.raises(UnknownModelError, match="tiny-bireal@1"):
        registry.resolve("classify", "tiny-bireal@")
    with pytest.raises(UnknownModelError):
        registry.find("tiny-bireal@")


def test_a_model_of_another_task_is_not_found(registry):
    with pytest.raises(UnknownModelError, match="is for the task 'depth'"):
        registry.resolve("classify", "tiny-ramp")
    assert registry.resolve("depth", "tiny-ramp").card.task == "depth"


@pytest.mark.parametrize("name", ["../tiny-bireal", "tiny-bireal/1", "tiny-bireal@../1", "", "@", "a\x00b"])
def test_names_are_never_paths(registry, name):
    with pytest.raises(UnknownModelError):
        registry.resolve("classify", name)


def test_everything_is_ready(registry):
    found = registry.readiness()
    assert (found.state, found.reasons) == ("ready", ())
    assert all(found.models.values())
    assert len(found.models) == 6
    assert registry.broken() == {}


# ---- defaults and versions -------------------------------------------------------------------------------------------


def test_the_only_binary_model_of_a_task_is_its_default(registry):
    assert registry.default("classify") == "tiny-bireal"
    assert registry.default("depth") == "tiny-bireal-depth"


def test_a_default_that_was_set_and_is_missing_is_not_replaced(zoo):
    registry = load(zoo, default_classify_model="missing", find_backend=without_op, fallback="reference")
    with pytest.raises(UnknownModelError, match="missing"):
        registry.resolve("classify")
    found = registry.readiness()
    assert found.state == "failed"
    assert any("missing" in reason for reason in found.reasons)


def test_several_candidates_need_a_setting(zoo):
    write_model(zoo, "tiny-other", colours_graph(), task="classify")
    shutil.rmtree(zoo / "tiny-bireal")
    registry = load(zoo, find_backend=without_op, fallback="reference")
    with pytest.raises(NotReadyError, match="BIREAL_DEFAULT_CLASSIFY_MODEL"):
        registry.resolve("classify")
    assert any("BIREAL_DEFAULT_CLASSIFY_MODEL" in reason for reason in registry.readiness().reasons)
    assert load(zoo, default_classify_model="tiny-other", fallback="reference").resolve("classify").variant == "full"


def test_a_task_without_a_model_does_not_make_the_service_unready(zoo):
    for name in ("tiny-bireal-depth", "tiny-ramp"):
        shutil.rmtree(zoo / name)
    registry = load(zoo, find_backend=without_op, fallback="reference")
    assert registry.readiness().state == "ready"
    with pytest.raises(NoModelError) as caught:
        registry.resolve("depth")
    assert caught.value.headers == {}, "waiting does not help"
    with pytest.raises(NoModelError):
        registry.resolve("depth", variant="full")


def test_a_task_whose_only_model_is_broken_says_so(zoo):
    for name in ("tiny-bireal-depth", "tiny-ramp"):
        shutil.rmtree(zoo / name)
    (zoo / load_settings({}).default_depth_model / "1").mkdir(parents=True)
    with pytest.raises(CardError):
        load(zoo, find_backend=without_op, fallback="reference").resolve("depth")


def test_the_newest_version_answers_and_older_ones_can_be_named(zoo):
    for version in ("9", "10"):
        write_model(zoo, "tiny-colours", colours_graph(), task="classify", version=version)
    registry = load(zoo, find_backend=without_op, fallback="reference")
    assert registry.resolve("classify", "tiny-colours").card.version == "10"
    assert registry.resolve("classify", "tiny-colours@9").card.version == "9"
    assert registry.resolve("classify", "tiny-bireal", "full").card.version == "10"


def test_versions_are_ordered_as_people_do():
    names = ["10", "2", "1.10", "1.9", "1.0-rc", "1.0"]
    assert sorted(names, key=version_key) == ["1.0", "1.0-rc", "1.9", "1.10", "2", "10"]


# ---- what is broken --------------------------------------------------------------------------------------------------


def test_nothing_answers_before_loading_is_done(zoo):
    registry = Registry(load_settings({"model_dir": zoo}))
    assert registry.readiness().state == "starting"
    with pytest.raises(NotReadyError) as caught:
        registry.resolve("classify")
    assert int(caught.value.headers["Retry-After"]) > 0


def test_an_empty_folder_is_not_ready_and_says_why(tmp_path):
    found = load(tmp_path).readiness()
    assert found.state == "failed"
    assert "holds no model" in found.reasons[0]


def test_a_missing_folder_is_not_ready_and_says_why(tmp_path):
    found = load(tmp_path / "none").readiness()
    assert found.state == "failed"
    assert "does not exist" in found.reasons[0]
    assert "BIREAL_MODEL_DIR" in found.reasons[0]


def test_files_and_hidden_folders_are_passed_over(zoo):
    (zoo / "README.md").write_text("a zoo")
    (zoo / ".git" / "objects").mkdir(parents=True)
    (zoo / "tiny-colours" / "notes.txt").write_text("notes")
    assert load(zoo, find_backend=without_op, fallback="reference").broken() == {}


def test_a_changed_file_is_refused_and_the_others_are_served(zoo):
    with (zoo / "tiny-ramp" / "1" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    registry = load(zoo, find_backend=without_op, fallback="reference")
    assert list(registry.broken()) == ["tiny-ramp@1"]
    with pytest.raises(ModelBrokenError, match="sha256"):
        registry.resolve("depth", "tiny-ramp")
    with pytest.raises(ModelBrokenError, match="sha256"):
        registry.resolve("depth", "tiny-bireal-depth", "full")
    assert registry.resolve("classify", "tiny-colours").card.name == "tiny-colours"
    assert registry.readiness().state == "ready"  # nobody's default


def test_a_broken_default_is_not_ready(zoo):
    (zoo / "tiny-ramp" / "1" / "model.onnx").write_bytes(b"no graph")
    found = load(zoo, default_depth_model="tiny-ramp", find_backend=without_op, fallback="reference").readiness()
    assert found.state == "failed"
    assert any(reason.startswith("/depth cannot answer") for reason in found.reasons)


def test_a_file_that_is_no_graph_is_named(zoo):
    for content, said in (
        (b"no graph", "tiny-colours: model.onnx is not an ONNX file: "),
        (b"", "tiny-colours (full): model.onnx "),  # an empty message, to protobuf
    ):
        replace_model(zoo / "tiny-colours" / "1", content)
        error = load(zoo, find_backend=without_op, fallback="reference").broken()["tiny-colours@1"]
        assert isinstance(error, ModelBrokenError)
        assert str(error).startswith(said)


@pytest.mark.parametrize("text", ["name: [", "name: 2024-13-45", "name: !!bool x", "name: !!timestamp x"])
def test_a_card_that_is_not_valid_is_told(zoo, text):
    (zoo / "tiny-ramp" / "1" / "card.yaml").write_text(text)
    registry = load(zoo, find_backend=without_op, fallback="reference")
    assert "not YAML" in str(registry.broken()["tiny-ramp@1"])
    with pytest.raises(ServiceError, match="not YAML"):
        registry.resolve("depth", "tiny-ramp")


def test_a_card_in_the_wrong_folder_is_refused(zoo):
    (zoo / "tiny-ramp" / "1").rename(zoo / "tiny-ramp" / "2")
    error = load(zoo, find_backend=without_op, fallback="reference").broken()["tiny-ramp@2"]
    assert "does not match its folder" in str(error)


def test_a_twin_that_is_missing_is_told(zoo):
    shutil.rmtree(zoo / "tiny-colours")
    registry = load(zoo, find_backend=without_op, fallback="reference")
    with pytest.raises(VariantNotServedError, match="binary, reference"):
        registry.resolve("classify", "tiny-bireal", "full")
    assert registry.resolve("classify", "tiny-bireal", "reference").variant == "reference"


# ---- without the op --------------------------------------------------------------------------------------------------


def test_without_the_op_the_service_is_not_ready_and_says_why(zoo):
    registry = load(zoo, find_backend=without_op)
    found = registry.readiness()
    assert found.state == "failed"
    assert found.reasons == ("The operator library was not found. " + OpUnavailableError.default_remedy,)
    with pytest.raises(OpUnavailableError):
        registry.resolve("classify")
    assert registry.resolve("classify", variant="full").variant == "full"


def test_with_the_fallback_the_reference_answers_and_says_so(zoo):
    registry = load(zoo, find_backend=without_op, fallback="reference")
    assert registry.readiness().state == "ready"
    handle = registry.resolve("classify", variant="binary")
    assert (handle.card.name, handle.variant, handle.kernel) == ("tiny-bireal", "reference", "onnxruntime")
    assert "was not found" in handle.fallback
    assert registry.resolve("classify", variant="reference").fallback is None


def test_the_fallback_is_one_handle_for_all_requests(zoo):
    """What an answer's parts are cached on; they were built anew for each request."""
    registry = load(zoo, find_backend=without_op, fallback="reference")
    handle = registry.resolve("classify")
    handle.kept[str] = "kept"
    assert registry.resolve("classify", "tiny-bireal@1", "binary") is handle
    changes = Changes(registry)
    changes.reload("tiny-bireal")
    assert registry.resolve("classify").fallback == handle.fallback
    assert registry.resolve("classify").kept == {}, "of the network that was loaded anew"


def test_the_fallback_does_not_hide_a_broken_model(zoo):
    shutil.rmtree(zoo / "tiny-bireal-depth")
    (zoo / "tiny-bireal" / "1" / "model.onnx").write_bytes(b"cut short")
    registry = load(zoo, fallback="reference")
    with pytest.raises(ModelBrokenError, match="sha256"):
        registry.resolve("classify")
    assert registry.readiness().state == "failed"


# ---- the rest --------------------------------------------------------------------------------------------------------


def test_each_variant_that_is_tried_is_reported(zoo):
    seen = []
    registry = Registry(load_settings({"model_dir": zoo}), find_backend=without_op)
    registry.observe(lambda card, variant, handle, _: seen.append((card.name, variant, handle is not None)))
    registry.load()
    assert ("tiny-bireal", "binary", False) in seen
    assert ("tiny-colours", "full", True) in seen
    assert len(seen) == 6
    again = []
    registry.observe(lambda card, variant, handle, _: again.append((card.name, variant, handle is not None)))
    assert again == seen


def test_who_looks_at_a_model_while_it_loads_sees_it_as_it_was(zoo):
    """`/models` and `/readyz` are answered meanwhile, in another thread, which may be interrupted anywhere."""
    registry, looks = Registry(load_settings({"model_dir": zoo}), find_backend=without_op), []

    def look(card, variant, *_) -> None:
        if (card.name, variant) == ("tiny-bireal", "binary"):
            looks.append(registry.catalog.version("tiny-bireal", "1").errors())
            next(looks[0])

    registry.scan()
    registry.observe(look)
    registry.load()
    (errors,) = looks
    assert list(errors) == []


def test_variants_of_a_damaged_file_are_reported_as_not_running(zoo):
    (zoo / "tiny-bireal" / "1" / "model.onnx").write_bytes(b"cut short")
    seen = []
    registry = Registry(load_settings({"model_dir": zoo}), find_backend=without_op)
    registry.observe(lambda card, variant, handle, _: seen.append((card.name, variant, handle is not None)))
    registry.load()
    assert [each for each in seen if each[0] == "tiny-bireal"] == [
        ("tiny-bireal", "binary", False),
        ("tiny-bireal", "reference", False),
    ]
    assert len(seen) == 6


def test_only_what_is_selected_is_loaded(zoo):
    registry = Registry(load_settings({"model_dir": zoo}), find_backend=without_op)
    registry.load(lambda card, _: card.name == "tiny-colours")
    assert registry.resolve("classify", "tiny-colours").variant == "full"
    with pytest.raises(NotReadyError, match="was not loaded"):
        registry.resolve("depth", "tiny-ramp")


def test_closing_while_loading_stops_it(zoo):
    registry = Registry(load_settings({"model_dir": zoo}), find_backend=without_op)
    registry.observe(lambda *_: registry.close())
    registry.load()
    assert registry.entries() == []
