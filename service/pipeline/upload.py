"""An image as a client sent it."""

import hashlib
from typing import NamedTuple


class Upload(NamedTuple):
    """One image as it arrived.

    Attributes:
        data: Its bytes.
        content_type: The declared type, without parameters; None if the client declared nothing meaningful.
        name: Its name in error messages when there are several images.
    """

    data: bytes
    content_type: str | None
    name: str


def picture_digest(data: bytes) -> str:
    """A digest that identifies an upload without storing it."""
    return hashlib.sha256(data).hexdigest()[:32]
