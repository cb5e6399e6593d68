"""The OpenAPI document: helpers to declare a route's errors, and edits to the document that FastAPI generates."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel, JsonValue
from pydantic.json_schema import models_json_schema

from service.api.auth import Auth, surface_of
from service.api.problems import OIP_PREFIX
from service.card import VARIANTS
from service.errors import PROBLEM_MEDIA_TYPE, error_classes
from service.schemas import Problem

_OIP_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_OIP_CONTENT = {"application/json": {"schema": _OIP_ERROR}}
_PROBLEM_CONTENT = {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: each status with the service's errors that use it."""
    return _responses(statuses, _PROBLEM_CONTENT)


def oip_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route of the Open Inference Protocol; see `problem_responses`."""
    return _responses(statuses, _OIP_CONTENT)


def _responses(statuses: Iterable[int], content: Mapping[str, Any]) -> dict[int | str, dict[str, Any]]:
    codes: dict[int, list[str]] = {}
    for kind in error_classes():
        codes.setdefault(kind.status, []).append(f"`{kind.code}`")
    return {
        status: {
            "description": f"{HTTPStatus(status).phrase}: {', '.join(sorted(set(codes.get(status, []))))}".rstrip(": "),
            "content": content,
            "headers": _RETRY_AFTER if status in (429, 503) else {},
        }
        for status in sorted(statuses)
    }


_RETRY_AFTER: Mapping[str, Any] = {
    "Retry-After": {"description": "Seconds to wait before trying again.", "schema": {"type": "integer"}}
}


#: Prefixes of operation ids by that of the path: functions of different areas may have the same name.
_AREAS = {f"{OIP_PREFIX}/repository": "v2_repository_", OIP_PREFIX: "v2_", "/admin/models": "admin_"}

_NAMES_OF_VARIANTS = ("variant", "a", "b")


def operation_id(route: APIRoute) -> str:
    """The `operationId` of a route, from which generated clients name their functions: it must not change."""
    area = next((name for prefix, name in _AREAS.items() if route.path.startswith(prefix)), "")
    return area + route.name


def describe(app: FastAPI, auth: Auth, bodies: Iterable[type[BaseModel]], defaults: Mapping[str, JsonValue]) -> None:
    """Adds problems, bodies and keys to the OpenAPI document, and removes FastAPI's own errors, which are never sent.

    Args:
        app: The application, with all of its routes.
        auth: Which keys are needed.
        bodies: Models of the bodies that routes read themselves; FastAPI knows only those that it reads.
        defaults: Defaults of query parameters that the settings determine.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            read = models_json_schema(
                [(model, "validation") for model in bodies], ref_template="#/components/schemas/{model}"
            )
            schemas |= read[1]["$defs"]
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            for methods in document["paths"].values():
                for operation in methods.values():
                    if "HTTPValidationError" in str(operation["responses"].get("422")):
                        del operation["responses"]["422"]
            _describe_keys(document, auth)
            _without_null_parameters(document)
            _describe_parameters(document, defaults)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way documented by FastAPI


def _describe_keys(document: dict[str, Any], auth: Auth) -> None:
    """Declares which operations need a key: administration always, inference if keys are configured."""
    problems, oip = problem_responses(401, 403), oip_responses(401, 403)
    needed = False
    for path, methods in document["paths"].items():
        surface = surface_of(path)
        if surface == "open" or (surface == "inference" and not auth.inference):
            continue
        needed = True
        responses = oip if path.startswith(f"{OIP_PREFIX}/") else problems
        for operation in methods.values():
            operation["security"] = [{"bearer": []}, {"key": []}]
            operation["responses"].setdefault("401", responses[401])
            if surface == "admin":
                operation["responses"].setdefault("403", responses[403])
    if needed:
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }


def _without_null_parameters(document: dict[str, Any]) -> None:
    """Removes null from the schemas of parameters: a query parameter or header can be omitted, but not be null."""
    for operation in (each for methods in document["paths"].values() for each in methods.values()):
        for parameter in operation.get("parameters", ()):
            schema = parameter["schema"]
            kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
            if len(kinds) == 1:
                del schema["anyOf"]
                schema.update({**kinds[0], **schema})


def _describe_parameters(document: dict[str, Any], defaults: Mapping[str, JsonValue]) -> None:
    """Adds the defaults of the settings, and the names of the variants, which routes check for an error that helps."""
    for operation in (each for methods in document["paths"].values() for each in methods.values()):
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "query":
                if parameter["name"] in defaults:
                    parameter["schema"]["default"] = defaults[parameter["name"]]
                if parameter["name"] in _NAMES_OF_VARIANTS:
                    parameter["schema"]["enum"] = list(VARIANTS)
