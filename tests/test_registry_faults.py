"""Faults of one folder, card or file, of kinds that nobody foresaw too: the other models are served."""

import gc
import weakref
from pathlib import Path

import onnx
import pytest

from service.backends import backend_for
from service.card import Card
from service.errors import ModelBrokenError
from service.registry import Registry
from service.registry.folder import ModelFolder
from service.settings import load_settings
from tests.changing_zoo import refuse_to_list
from tests.test_onnx_file import nested
from tests.test_registry import load, replace_model, without_op
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


class Exploding:
    """A backend with a fault of its own."""

    name = "exploding"

    def load(self, *_, **__):
        raise ZeroDivisionError("a fault in the runtime")


def test_a_fault_of_the_runtime_takes_down_one_variant_only(zoo):
    registry = load(zoo, find_backend=lambda variant: Exploding() if variant == "reference" else backend_for(variant))
    with pytest.raises(ModelBrokenError, match="ZeroDivisionError; see the service"):
        registry.resolve("classify", "tiny-bireal", "reference")
    assert registry.resolve("classify", "tiny-colours").variant == "full"


def test_a_file_that_nests_too_deeply_is_refused_and_the_others_are_served(zoo):
    """It ended the thread that loads the models, and the service was starting for good."""
    replace_model(zoo / "tiny-ramp" / "1", nested(3000))
    registry = load(zoo, find_backend=without_op, fallback="reference")
    assert list(registry.broken()) == ["tiny-ramp@1"]
    assert "nested more than 100 levels" in str(registry.broken()["tiny-ramp@1"])
    assert registry.resolve("classify", "tiny-colours").variant == "full"
    assert registry.readiness().state == "ready"


def test_a_fault_while_a_file_is_verified_takes_down_its_model_only(zoo, monkeypatch, caplog):
    def verify(card: Card) -> None:
        if card.name == "tiny-ramp":
            raise RecursionError("a fault in the verification")

    monkeypatch.setattr(Card, "verify_file", verify)
    seen = []
    registry = Registry(load_settings({"model_dir": zoo, "fallback": "reference"}), find_backend=without_op)
    registry.observe(lambda card, variant, handle, _: seen.append((card.name, variant, handle is not None)))
    registry.load()
    with pytest.raises(ModelBrokenError, match=r"model\.onnx cannot be verified: RecursionError; see the service"):
        registry.resolve("depth", "tiny-ramp")
    assert ("tiny-ramp", "full", False) in seen
    assert "a fault in the verification" in caplog.text
    assert registry.resolve("classify", "tiny-colours").variant == "full"


class Late:
    """A backend whose models get another file, with the same inputs and outputs, after theirs was verified."""

    def __init__(self, variant: str) -> None:
        self.backend = backend_for(variant)

    def load(self, card, variant, **options):
        graph = onnx.load(card.path)
        graph.doc_string = "another network"
        onnx.save(graph, card.path)
        return self.backend.load(card, variant, **options)


def test_a_file_that_is_replaced_while_it_is_loaded_is_not_served(zoo):
    registry = load(zoo, find_backend=Late)
    with pytest.raises(ModelBrokenError, match=r"model\.onnx has sha256 .* but its card says"):
        registry.resolve("classify", "tiny-colours")


class Failing:
    """A backend whose networks load, and fail in their first run."""

    def __init__(self) -> None:
        self.models: list[weakref.ref[Failing.Model]] = []

    class Model:
        def warm_up(self) -> None:
            raise ModelBrokenError("tiny", "the network failed.")

    def load(self, *_, **__) -> Model:
        model = self.Model()
        self.models.append(weakref.ref(model))
        return model


def test_the_error_of_a_network_does_not_keep_it_in_memory(zoo):
    """The frames of the error's traceback refer to the session, which is as large as the model."""
    backend = Failing()
    registry = load(zoo, find_backend=lambda _: backend)
    assert len(registry.broken()) == len(registry.entries())
    gc.collect()
    assert backend.models
    assert [model for model in backend.models if model() is not None] == []


class Upload:
    """Something that a request holds while it is answered."""


@pytest.mark.parametrize("model", ["tiny-bireal", "tiny-ramp", "tiny-colours"])
def test_requests_for_a_model_that_cannot_run_leave_nothing_in_memory(zoo, model):
    """Each raise of the same error adds the frames of its request to the error's traceback."""
    (zoo / "tiny-ramp" / "1" / "card.yaml").write_text("[]")
    registry = load(zoo, find_backend=lambda _: Exploding(), default_depth_model="tiny-ramp")

    def ask() -> weakref.ref[Upload]:
        upload = Upload()
        registry.readiness()
        with pytest.raises(ModelBrokenError):
            registry.resolve("depth" if model == "tiny-ramp" else "classify", model)
        with pytest.raises(ModelBrokenError):
            registry.resolve("depth")
        return weakref.ref(upload)

    uploads = [ask() for _ in range(3)]
    gc.collect()
    assert [upload for upload in uploads if upload() is not None] == []
    kept = [*registry.broken().values(), *(error for entry in registry.entries() for error in entry.errors())]
    assert kept
    assert all(error.__traceback__ is None for error in kept)
