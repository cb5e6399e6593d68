"""Log records as lines of text or as JSON objects, always on standard error.

A record may carry searchable values as `extra={"fields": {...}}`. Images are never part of a record.
"""

import json
import logging
import sys
import time
import warnings
from typing import Any

from service.settings import Settings


class TextFormatter(logging.Formatter):
    """`time LEVEL logger: message key=value ...`, in UTC."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the base class's name
        """The line, followed by the record's fields."""
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        line = super().formatMessage(record)
        return f"{line} {fields}" if fields else line


class JsonFormatter(logging.Formatter):
    """One JSON object per record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's time, level, logger, message and fields, and its traceback if it has one."""
        document: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str)


def configure_logging(settings: Settings) -> None:
    """Sends every record of this process to standard error, in the configured format and from the configured level.

    Python warnings become records of the logger `py.warnings`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    # Libraries that log every step at INFO or DEBUG.
    for name in ("PIL", "asyncio", "multipart", "python_multipart"):
        logging.getLogger(name).setLevel(logging.WARNING)
    pass_over_damaged_metadata()
    logging.captureWarnings(True)


def pass_over_damaged_metadata() -> None:
    """Keeps Pillow's warnings out of the log: it warns of every damaged tag, and a 60 kB image can have 5000."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields
