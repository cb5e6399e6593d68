"""What the framework finds wrong with a request's query, headers and JSON body, as errors of ours."""

import asyncio
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BeforeValidator
from starlette.requests import Request

from service.api.json_body import LARGE_BYTES, refuse_doubled
from service.errors import BadParameterError, MalformedBodyError, ServiceError

_PLAIN = re.compile(r"-?[0-9]+")
_REMEDY = "GET /docs lists every parameter and its values."
_JSON_REMEDY = "Send a JSON object in UTF-8, with Content-Type: application/json; GET /docs lists its members."


def _plain(value: object) -> object:
    """What pydantic would read as a number beside plain digits: `1_0` as ten, ` 3`, `3.0`, digits of other scripts."""
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        raise ValueError("a whole number is written in the digits 0 to 9 alone")
    return value


#: Of a whole number in a query; after its `Field`, whose limits would else be missing in the OpenAPI document.
PLAIN_DIGITS = BeforeValidator(_plain)


def request_error(findings: Sequence[Mapping[str, Any]]) -> ServiceError:
    """The error of a request that does not fit what the route takes.

    Args:
        findings: pydantic's, as FastAPI hands them on: `loc` begins with `query`, `header`, `path` or `body`.

    Returns:
        400 where the body is no JSON; else 422 with a sentence for each finding, the first of which names the
        error's parameter.
    """
    for finding in findings:
        if finding["type"] == "json_invalid":
            return malformed_json(f"{finding['ctx']['error']} at character {finding['loc'][-1]}")
    sentences, names = [], []
    for finding in findings:
        sentences.append(_sentence(finding))
        names.append(_name(finding))
    of_body = all(finding["loc"][0] == "body" for finding in findings)
    return BadParameterError(
        names[0] if names else "request", " ".join(sentences), remedy=_JSON_REMEDY if of_body else _REMEDY
    )


def malformed_json(reason: str) -> MalformedBodyError:
    """400: a body that is taken as JSON and is none."""
    return MalformedBodyError(f"The body is not JSON: {reason}.", remedy=_JSON_REMEDY)


async def refuse_repeated(request: Request) -> None:
    """A dependency of routes with a query: which of two values counts must not depend on who reads them.

    Raises:
        BadParameterError: A name stands twice in the query.
    """
    counts = Counter(name for name, _ in request.query_params.multi_items())
    name, times = max(counts.items(), key=lambda item: item[1], default=("", 0))
    if times > 1:
        raise BadParameterError(
            name[:40], f"The query parameter {name[:40]!r} is there {times} times.", remedy="Send it once."
        )


async def refuse_unknown(request: Request) -> None:
    """A dependency of routes that change or run something: FastAPI passes over names that a route does not declare.

    A misspelt `version` would then take every version of a model out of service. Routes whose query is one model with
    `extra="forbid"` need it not; probes and scrapers may add what they like.

    Raises:
        BadParameterError: A name in the query is none of the route's.
    """
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    unknown = next((name for name in request.query_params if name not in known), None)
    if unknown is not None:
        raise BadParameterError(
            unknown[:40],
            f"There is no query parameter {unknown[:40]!r} of this path.",
            remedy=f"It takes {', '.join(known)}."
            if known
            else "It takes none; GET /docs says what goes into the body.",
        )


async def refuse_doubled_members(request: Request) -> None:
    """A dependency of routes that take JSON: the framework keeps the last of two members of one name.

    Raises:
        BadParameterError: The body has a member twice.
    """
    body = await request.body()  # which the framework has read
    if len(body) < LARGE_BYTES:
        refuse_doubled(body)
    else:
        await asyncio.to_thread(refuse_doubled, body)


def _name(finding: Mapping[str, Any]) -> str:
    place, *path = (str(step) for step in finding["loc"])
    return ".".join(path) if path else place  # a name may be empty: `?=1`


def _sentence(finding: Mapping[str, Any]) -> str:
    place, *path = finding["loc"]
    name = _name(finding)
    what = "body's member" if place == "body" else f"{place} parameter"
    if place == "body" and not path:
        return _sentence_of_body(finding)
    if finding["type"] == "missing":
        return f"The {what} {name!r} is missing."
    if finding["type"] == "extra_forbidden":
        return f"There is no {what} {name!r}." if place != "body" else f"The body can have no member {name!r}."
    message = finding["msg"].removeprefix("Value error, ")
    return f"The {what} {name}={_shown(finding.get('input'))}: {message}."


def _sentence_of_body(finding: Mapping[str, Any]) -> str:
    """Of the body as a whole: absent, of another type, or of members that do not go together."""
    if finding["type"] == "missing":
        return "The body is empty."
    if finding["type"] == "value_error":
        return f"The body cannot be used: {finding['msg'].removeprefix('Value error, ')}."
    return "The body is no JSON object."


def _shown(value: object) -> str:
    """A client's value for an error message: quoted, and cut where it is long."""
    limit = 40
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "..."
