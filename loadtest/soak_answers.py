"""The answers that `loadtest.soak` expects: those of the idle service to the same pictures, without what may differ.

An answer to a picture is the same at every time and load, except for its request id, its times and the size of its
batch. So a saturated service that mixes up the images of two clients, or computes from a reused buffer, is found out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from loadtest.pictures import photo_like

BINARY, FULL, DEPTH, BOTH = "/classify", "/classify?variant=full", "/depth?variant=binary", "/compare/classify"
#: Bodies that are no pictures: what is sent instead, its status and the error's code.
BAD = {"cut": (422, "broken-image"), "text": (415, "unsupported-image")}
#: How often each request is sent, relative to the others.
WEIGHTS = {BINARY: 16, FULL: 4, DEPTH: 2, BOTH: 2, "cut": 1, "text": 1}
VALID = tuple(path for path in WEIGHTS if path not in BAD)

HEADERS = {"content-type": "application/octet-stream"}

# Float32 sums may be added in another order in a batch of another size; those of the 1-bit networks are integers.
_TOLERANCE = 1e-5
_VARYING = {"request_id", "timings_ms", "feedback_token", "batch_size", "order", "speedup"}


@dataclass(frozen=True)
class Client:
    """The pictures of one client, and the answers to them.

    Attributes:
        small: a JPEG to classify.
        wide: a JPEG to estimate the depth of.
        expected: stable parts of the answers, by path.
    """

    small: bytes
    wide: bytes
    expected: dict[str, Any]

    def body(self, path: str) -> bytes:
        """The body to send to a path, or to `/classify` for one of BAD."""
        if path in BAD:
            return self.small[:5000] if path == "cut" else b"no picture"
        return self.wide if path.startswith("/depth") else self.small

    def faults(self, path: str, response: httpx.Response) -> Iterator[str]:
        """What is wrong with a response to the body of a path: nothing, as a rule."""
        status, code = BAD.get(path, (200, None))
        if response.status_code == 429:  # the right response of a full queue
            if not response.headers.get("retry-after", "").isdigit():
                yield f"{path}: 429 without Retry-After"
        elif response.status_code != status:
            yield f"{path}: {response.status_code} {response.text[:200]}"
        elif code is not None:
            if (said := _json(response).get("code")) != code:
                yield f"{path}: code {said!r} instead of {code!r}"
        else:
            for where in differences(self.expected.get(path), stable(_json(response))):
                yield f"{path}: another answer than alone: {where}"


def prepare(http: httpx.Client, number: int, wrong: list[str]) -> Client:
    """Makes the pictures of a client and asks for the answers to them, one at a time.

    Args:
        http: a connection to the service.
        number: number of the client; each has its own pictures.
        wrong: receives what is wrong with the answers, such as two endpoints that disagree.

    Raises:
        httpx.HTTPError: the service cannot be reached.
    """
    client = Client(photo_like(seed=number, width=320 + 40 * (number % 7)), photo_like(1242, 375, seed=number), {})
    for path in VALID:
        response = http.post(path, content=client.body(path), headers=HEADERS)
        if response.status_code != 200:
            wrong.append(f"{path}: {response.status_code} when idle: {response.text[:200]}")
        client.expected[path] = stable(_json(response))
    both = client.expected[BOTH]
    for path, side in ((BINARY, "a"), (FULL, "b")):
        found = differences(client.expected[path], both.get(side))
        wrong += [f"{BOTH}: `{side}` is not the answer of {path}: {where}" for where in found]
    return client


def stable(answer: Any) -> Any:
    """An answer without the parts that differ from request to request."""
    if isinstance(answer, dict):
        return {name: stable(value) for name, value in answer.items() if name not in _VARYING}
    return [stable(value) for value in answer] if isinstance(answer, list) else answer


def differences(expected: Any, given: Any, tolerance: float = 0.0, where: str = "") -> Iterator[str]:
    """Yields where two answers differ. Numbers of other variants than `binary` may do so by 1e-5."""
    if isinstance(expected, dict) and isinstance(given, dict) and expected.keys() == given.keys():
        if "variant" in expected:
            tolerance = 0.0 if expected["variant"] == "binary" else _TOLERANCE
        for name, value in expected.items():
            yield from differences(value, given[name], tolerance, f"{where}.{name}")
    elif isinstance(expected, list) and isinstance(given, list) and len(expected) == len(given):
        for index, (one, other) in enumerate(zip(expected, given, strict=True)):
            yield from differences(one, other, tolerance, f"{where}[{index}]")
    elif isinstance(expected, float) and isinstance(given, float):
        if not abs(expected - given) <= tolerance:
            yield f"{where.lstrip('.')}: {given} instead of {expected}"
    elif expected != given:
        yield f"{where.lstrip('.')}: {str(given)[:80]} instead of {str(expected)[:80]}"


def _json(response: httpx.Response) -> dict[str, Any]:
    """The body as an object; an empty one where it is none."""
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
