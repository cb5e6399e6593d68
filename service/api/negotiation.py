"""Content negotiation by the `Accept` header (RFC 9110, section 12.5.1)."""

import re
from collections.abc import Sequence

from service.errors import NotAcceptableError

_QUALITY = re.compile(r"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")


def best_media_type(accept: str | None, offered: Sequence[str]) -> str:
    """The offered media type that the client prefers.

    Args:
        accept: The `Accept` header; None or empty accepts anything.
        offered: The available media types as `type/subtype`; the first wins a tie.

    Raises:
        NotAcceptableError: The client accepts none of them.
    """
    if accept is None or not accept.strip():
        return offered[0]
    ranges = _media_ranges(accept)
    best = max(offered, key=lambda media_type: _quality(media_type, ranges))  # max keeps the first of equals
    if not _quality(best, ranges):
        raise NotAcceptableError(accept[:100], offered)
    return best


def _media_ranges(accept: str) -> dict[str, float]:
    """The quality of each media range, such as `image/*`; malformed ranges are ignored."""
    ranges = {}
    for element in accept.split(","):
        name, *parameters = (part.strip().lower() for part in element.split(";"))
        matches = [match for parameter in parameters if (match := _QUALITY.fullmatch(parameter))]
        if "/" in name:
            ranges[name] = float(matches[0][1]) if matches else 1.0
    return ranges


def _quality(media_type: str, ranges: dict[str, float]) -> float:
    """The quality of the most specific range that matches the media type; 0 if none does."""
    group = media_type.partition("/")[0] + "/*"
    return next((ranges[name] for name in (media_type, group, "*/*") if name in ranges), 0.0)
