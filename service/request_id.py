"""The id of a request, by which its response, its log lines and its trace can be found."""

import re

from service.randomness import random_bytes

REQUEST_ID_HEADER = "x-request-id"

# Ids end up in log lines and in headers of other systems, so separators, quotes and control characters are excluded.
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


def request_id_from(given: str | None) -> str:
    """The client's id if it is safe to echo and to log, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return random_bytes(16).hex()
