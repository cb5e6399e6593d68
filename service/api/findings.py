"""Turns pydantic's findings about a request's query, headers and JSON body into the service's errors."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, BeforeValidator
from starlette.requests import Request

from service.errors import BadParameterError, MalformedBodyError, ServiceError, did_you_mean, nearest

_PLAIN = re.compile(r"-?[0-9]+")
_JSON_REMEDY = "Send a JSON object in UTF-8, with Content-Type: application/json; GET /docs lists its members."


def _plain(value: object) -> object:
    """Rejects what pydantic also accepts as an integer: `1_0` as ten, ` 3`, `3.0`, digits of other scripts."""
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        raise ValueError("a whole number must be written with the digits 0 to 9 only")
    return value


#: For integers in a query. Put it after the `Field`, or its limits will be missing in the OpenAPI document.
PLAIN_DIGITS = BeforeValidator(_plain)


def request_error(findings: Sequence[Mapping[str, Any]], *, known: Iterable[str] = ()) -> ServiceError:
    """The error for a request that does not match the route's parameters.

    Args:
        findings: pydantic's findings, whose `loc` begins with `query`, `header`, `path` or `body`.
        known: The names that the query, or the body's object, may have, to suggest the one that was meant.

    Returns:
        400 for a body that is not JSON, else 422 with one sentence per finding. The error's parameter is that of the
        first finding.
    """
    if findings and findings[0]["type"] == "json_invalid":
        return MalformedBodyError(f"The body is not JSON: {_why_not_json(findings[0])}.", remedy=_JSON_REMEDY)
    sentences, names, unknown = [], [], []
    for finding in findings:
        sentences.append(_sentence(finding))
        names.append(_name(finding))
        if finding["type"] == "extra_forbidden" and len(finding["loc"]) == 2:  # not of an object in the body's
            unknown.append(names[-1])
    of_body = all(finding["loc"][0] == "body" for finding in findings)
    meant = next((name for name in unknown if nearest(name, known)), "")
    remedy = did_you_mean(meant, known) + (_JSON_REMEDY if of_body else BadParameterError.default_remedy)
    return BadParameterError(names[0] if names else "request", " ".join(sentences), remedy=remedy)


async def refuse_repeated(request: Request) -> None:
    """A dependency that rejects repeated query parameters: readers of a query differ in which value they use.

    Raises:
        BadParameterError: A query parameter is repeated.
    """
    counts = Counter(name for name, _ in request.query_params.multi_items())
    name, times = max(counts.items(), key=lambda item: item[1], default=("", 0))
    if times > 1:
        raise BadParameterError(
            name[:40], f"The query parameter {name[:40]!r} occurs {times} times.", remedy="Send it once."
        )


async def refuse_unknown(request: Request) -> None:
    """A dependency that rejects query parameters which the route does not declare; FastAPI ignores them.

    For routes that change or run something: a misspelt `version` would take every version of a model out of service.
    Routes whose query is a model with `extra="forbid"` do not need it, and probes and scrapers may add parameters.

    Raises:
        BadParameterError: The route has no such query parameter.
    """
    known = query_names(request)
    unknown = next((name for name in request.query_params if name not in known), None)
    if unknown is not None:
        raise BadParameterError(
            unknown[:40],
            f"This path has no query parameter {unknown[:40]!r}.",
            remedy=f"{did_you_mean(unknown, known)}It accepts {', '.join(known)}."
            if known
            else "It accepts none; GET /docs describes the body.",
        )


def query_names(request: Request) -> list[str]:
    """The query parameters that a request's route declares, one by one or as the fields of a model."""
    names: list[str] = []
    for field in request.scope["route"].dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += kind.model_fields
        else:
            names.append(field.alias)
    return names


def _name(finding: Mapping[str, Any]) -> str:
    place, *path = (str(step) for step in finding["loc"])
    return ".".join(path) if path else place  # the name may be empty, as in `?=1`


def _sentence(finding: Mapping[str, Any]) -> str:
    place, *path = finding["loc"]
    name = _name(finding)
    what = "body's member" if place == "body" else f"{place} parameter"
    if place == "body" and not path:
        return _sentence_of_body(finding)
    if finding["type"] == "missing":
        return f"The {what} {name!r} is missing."
    if finding["type"] == "extra_forbidden":
        return f"There is no {what} {name!r}." if place != "body" else f"The body must not have a member {name!r}."
    message = finding["msg"].removeprefix("Value error, ")
    return f"The {what} {name}={_shown(finding.get('input'))}: {message}."


def _sentence_of_body(finding: Mapping[str, Any]) -> str:
    """The sentence for a finding about the whole body: missing, of the wrong type, or with conflicting members."""
    if finding["type"] == "missing":
        return "The body is empty."
    if finding["type"] == "value_error":
        return f"The body is not valid: {finding['msg'].removeprefix('Value error, ')}."
    return "The body is not a JSON object."


def _why_not_json(finding: Mapping[str, Any]) -> str:
    """The parser names a place, but calls what is not even text an invalid code point."""
    try:
        finding["input"].decode()
    except UnicodeDecodeError:
        return "it is not UTF-8 text"
    return str(finding["ctx"]["error"])


def _shown(value: object) -> str:
    """A client's value for an error message: quoted, and truncated if it is long."""
    limit = 40
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "..."
