"""What the process writes to standard error: records and nothing else, whatever is in a picture's metadata."""

import json
import logging
import struct
import warnings
from collections.abc import Iterator

import pytest

from service.cli.logs import TextFormatter, configure_logging
from service.cli.main import main
from service.imaging import decode
from service.settings import Settings
from tests.pictures import encode, photo
from tests.tiny_zoo import write_zoo

TAGS = b"".join(struct.pack("<HHII", tag, 7, 60_000, 8) for tag in range(1, 11))
DAMAGED = encode(photo(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 10) + TAGS + bytes(4))


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Undoes what `configure_logging` does to the process."""
    handlers, level = list(logging.root.handlers), logging.root.level
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield
        logging.captureWarnings(False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def test_a_line_of_text_ends_with_the_records_fields() -> None:
    record = logging.LogRecord("service.access", logging.INFO, "x.py", 1, "a %s", ("request",), None)
    record.created = 0.0
    assert TextFormatter().format(record) == "1970-01-01T00:00:00Z INFO    service.access: a request"
    record.fields = {"request_id": "a", "status": 200}
    told = "1970-01-01T00:00:00Z INFO    service.access: a request request_id=a status=200"
    assert TextFormatter().format(record) == told


@pytest.mark.usefixtures("logging_as_before")
def test_lines_are_text_unless_json_is_asked_for(capsys) -> None:
    configure_logging(Settings())
    logging.getLogger("service.access").warning("request", extra={"fields": {"request_id": "a", "status": 200}})
    assert capsys.readouterr().err.endswith(" WARNING service.access: request request_id=a status=200\n")


def test_the_picture_has_what_pillow_warns_of() -> None:
    with pytest.warns(UserWarning, match="Skipping tag") as told:
        decode(DAMAGED)
    assert {warning.category for warning in told} == {UserWarning}


@pytest.mark.usefixtures("logging_as_before")
def test_warnings_are_records_and_damaged_metadata_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_format="json"))
    decode(DAMAGED)
    warnings.warn("something is deprecated", stacklevel=1)
    (line,) = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert (record["level"], record["logger"]) == ("warning", "py.warnings")
    assert "something is deprecated" in record["message"]


def test_commands_say_nothing_of_damaged_metadata(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BIREAL_MODEL_DIR", str(write_zoo(tmp_path / "zoo")))
    (tmp_path / "photo.jpg").write_bytes(DAMAGED)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert main(["predict", str(tmp_path / "photo.jpg"), "--variant", "full"]) == 0
    assert [str(warning.message) for warning in caught] == []
