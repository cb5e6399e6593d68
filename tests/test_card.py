"""The model card: round trip through YAML, and every mistake in one named by file, field and remedy."""

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from service.card import Card
from service.card_table import documentation, markdown_table
from service.errors import CardError, ModelBrokenError
from tests.cards import card_document, classify_card, depth_card, full_card

PAGE = Path(__file__).resolve().parent.parent / "docs" / "card.md"


def write(directory: Path, document: object) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "card.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return directory


@pytest.mark.parametrize("card", [classify_card(), full_card(), depth_card()], ids=lambda card: card.name)
def test_write_then_load_gives_the_same_card(card: Card, tmp_path: Path) -> None:
    folder = tmp_path / card.name / card.version
    written = card.write(folder)
    loaded = Card.load(folder)
    assert loaded.model_dump() == card.model_dump()
    assert loaded.path == written.path == folder / "model.onnx"
    assert loaded.directory == folder


def test_written_file_keeps_the_order_of_fields_and_names_of_any_script(tmp_path: Path) -> None:
    classify_card(classes=[{"wnid": "n1", "name": "jalapeño"}, {"wnid": "n2", "name": "猫"}]).write(tmp_path)
    text = (tmp_path / "card.yaml").read_text(encoding="utf-8")
    assert text.startswith("schema_version: 1\nname: bireal18-test\n")
    assert "jalapeño" in text
    assert "猫" in text


def test_variants_follow_the_precision() -> None:
    assert classify_card().variants == ("binary", "reference")
    assert full_card().variants == ("full",)


def test_cards_cannot_be_changed() -> None:
    card = classify_card()
    with pytest.raises(ValidationError):
        card.name = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        card.input.height = 1  # type: ignore[misc]


def test_a_card_made_in_memory_has_no_folder() -> None:
    with pytest.raises(CardError, match=r"Card\.load or Card\.write"):
        _ = classify_card().path


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"version": 1.0}, "version", "string"),
        ({"name": "Bi Real"}, "name", "pattern"),
        ({"name": "../etc"}, "name", "pattern"),
        ({"file": "../model.onnx"}, "file", "pattern"),
        ({"sha256": "abc"}, "sha256", "pattern"),
        ({"schema_version": 2}, "schema_version", "1"),
        ({"task": "segment"}, "task", "'classify' or 'depth'"),
        ({"acuracy": 0.5}, "acuracy", "Extra inputs"),
        ({"network": {"depth": 19}}, "network.depth", "18, 34, 50 or 152"),
        ({"network": {"method": "none"}}, "network.method", "binarisation"),
        ({"full": None}, "full", "twin"),
        ({"input": {"height": 0}}, "input.height", "greater than 0"),
        ({"input": {"resize_shorter": 55}}, "input", "beyond the image"),
        ({"input": {"resize_shorter": None}}, "input.resize_shorter", "classifier"),
        ({"classes": []}, "classes", "classifier"),
        ({"classes": [{"wnid": "n1", "name": "a"}, {"wnid": "n1", "name": "b"}]}, "classes", "twice"),
        ({"depth": {"max_m": 80, "min_m": 1, "fx_px": 1, "baseline_m": 1, "aspect": 1}}, "depth", "for a depth model"),
        ({"weights": {"artefact_bytes": 0}}, "weights.artefact_bytes", "greater than 0"),
        ({"work": {"bops": -1}}, "work.bops", "greater than or equal to 0"),
        ({"training": {"wall_time_s": float("nan")}}, "training.wall_time_s", "finite"),
        ({"metrics": [{"dataset": "d", "variant": "full", "n": 1, "values": {}}]}, "metrics", "'full'"),
        (
            {"metrics": [{"dataset": "d", "variant": "binary", "n": 1, "values": {"top1": float("inf")}}]},
            "metrics.0.values.top1",
            "finite",
        ),
        (
            {"metrics": [{"dataset": "d", "variant": "binary", "n": 1, "values": {"Top 1": 0.5}}]},
            "metrics.0.values",
            "lower case",
        ),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, Any], field: str, message: str) -> None:
    folder = write(tmp_path / "bireal18-test" / "1", card_document(**changes))
    with pytest.raises(CardError) as caught:
        Card.load(folder)
    assert caught.value.detail.startswith("bireal18-test/1: card.yaml ")
    assert str(tmp_path) not in str(caught.value)
    assert f"{field}: " in caught.value.detail
    assert message in caught.value.detail
    assert caught.value.status == 503


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": None}, "depth: a depth model must state its camera"),
        ({"depth": {"min_m": 80.0}}, "min_m 80 must be less than max_m 80"),
        ({"input": {"resize_shorter": 64}}, "allowed only for a classifier"),
        ({"classes": [{"wnid": "n1", "name": "a"}]}, "allowed only for a classifier"),
    ],
)
def test_mistakes_in_depth_cards_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        depth_card(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"full": "x"}, "allowed only for a binary model"), ({"network": {"method": "bireal"}}, "network.method")],
)
def test_mistakes_in_full_precision_cards_are_named(changes: dict[str, Any], message: str) -> None:
    document = full_card().model_dump(mode="json")
    for name, value in changes.items():
        document[name] = {**document[name], **value} if isinstance(value, dict) else value
    with pytest.raises(ValidationError, match=message):
        Card.model_validate(document)


@pytest.mark.parametrize("field", ["name", "task", "input", "weights", "work", "training", "license", "sha256"])
def test_missing_fields_are_named(tmp_path: Path, field: str) -> None:
    document = card_document()
    del document[field]
    with pytest.raises(CardError, match=f"{field}: Field required"):
        Card.load(write(tmp_path, document))


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    document = card_document(file="/etc/passwd", sha256="x")
    del document["license"]
    with pytest.raises(CardError) as caught:
        Card.load(write(tmp_path, document))
    assert all(f"{field}: " in caught.value.detail for field in ("file", "sha256", "license"))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"card\.yaml cannot be read"):
        Card.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [unclosed", "is not YAML"),
        (b"- a\n- list\n", "contains a list, not a mapping"),
        (b"", "contains a NoneType"),
        (b"\xff\xfe\x00binary", "cannot be read"),
        (b"!!python/object/apply:os.system ['true']", "is not YAML"),
        (b"notes: 2024-13-45", "is not YAML: a value cannot be read"),  # a date to PyYAML, which then raises ValueError
        (b"[" * 3000, "is not YAML: it is nested too deeply"),
    ],
)
def test_files_that_are_no_card(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "card.yaml").write_bytes(content)
    with pytest.raises(CardError, match=message):
        Card.load(tmp_path)


def test_checksum_of_the_model_file(tmp_path: Path) -> None:
    content = b"\x08\x0a"  # a network without anything but its version
    card = classify_card(sha256=hashlib.sha256(content).hexdigest()).write(tmp_path)
    with pytest.raises(ModelBrokenError, match="cannot be read"):
        card.verify_file()
    card.path.write_bytes(content)
    card.verify_file()
    card.path.write_bytes(content[:-1])
    with pytest.raises(ModelBrokenError, match=r"sha256 .* its card says") as caught:
        card.verify_file()
    assert "truncated" in caught.value.remedy


# --- weights ---------------------------------------------------------------------------------------------------------


def test_bytes_of_each_variants_weights() -> None:
    card = classify_card(weights={"real_bytes": 700})  # 500 real-valued parameters, some of them in 8 bits
    assert card.weight_bytes("binary") == {"binary": 1_250, "real": 700}
    assert card.weight_bytes("reference") == {"binary": 0, "real": 4 * (10_000 + 500)}
    assert full_card().weight_bytes("full") == {"binary": 0, "real": 42_000}


# --- documentation ---------------------------------------------------------------------------------------------------


def test_the_page_lists_every_field() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert markdown_table() in text, "replace the table by what service.card_table.markdown_table() returns"


def test_every_field_has_a_sentence_and_every_length_or_size_its_unit() -> None:
    docs = {doc.path: doc for doc in documentation()}
    assert len(docs) > 50
    for doc in docs.values():
        assert doc.description.endswith("."), doc.path
    assert [docs[path].type for path in ("depth", "metrics", "input.mean", "input.resize_shorter")] == [
        "mapping",
        "list of mappings",
        "3 numbers",
        "integer > 0",
    ]
    units = {"_m": "metres", "_px": "pixels", "_bytes": "bytes", "_s": "seconds"}
    for path, doc in docs.items():
        for suffix, unit in units.items():
            assert not path.endswith(suffix) or doc.unit == unit, path


def test_the_example_on_the_page_is_a_card_with_every_field(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "card.yaml").write_text(example, encoding="utf-8")
    card = Card.load(tmp_path)
    assert card.work.bops == card.work.binary_macs + 64 * card.work.real_macs
    shown = {doc.path.split(".")[-1] for doc in documentation()} - {"steps", "notes"}
    assert [name for name in shown if not re.search(rf"\b{name}:", example)] == []
