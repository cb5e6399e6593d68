"""The table of docs/card.md, made from the fields of `Card` and its parts."""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from service.card import Card, Unit

_SIMPLE: dict[object, str] = {str: "text", int: "integer", float: "number"}


class FieldDoc(NamedTuple):
    """A row of the table: `path` is the field's name with those of the parts that contain it."""

    path: str
    type: str
    unit: str
    default: str
    description: str


def documentation(part: type[BaseModel] = Card, prefix: str = "") -> Iterator[FieldDoc]:
    """Yields every field, each part before its own fields."""
    for name, field in part.model_fields.items():
        kind, inner, marks = _look_into(field.annotation)
        marks += field.metadata
        unit = next((mark.name for mark in marks if isinstance(mark, Unit)), "")
        path = prefix + name
        yield FieldDoc(path, kind + _limits(marks), unit, _default(field), field.description or "")
        if inner is not None:
            yield from documentation(inner, f"{path}[]." if kind.startswith("list") else f"{path}.")


def markdown_table() -> str:
    """Returns the table: `python -c "import service.card_table as c; print(c.markdown_table())"`."""
    lines = ["| field | type | unit | default | meaning |", "|---|---|---|---|---|"]
    for doc in documentation():
        kind = doc.type.replace("|", "\\|")
        lines.append(f"| `{doc.path}` | {kind} | {doc.unit} | {doc.default} | {doc.description} |")
    return "\n".join(lines)


def _look_into(annotation: Any) -> tuple[str, type[BaseModel] | None, list[object]]:
    """Returns a type's name for readers, the part that it is or lists, and what `Annotated` says of it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        kind, inner, marks = _look_into(arguments[0])
        of_fields = [mark for extra in arguments[1:] if isinstance(extra, FieldInfo) for mark in extra.metadata]
        return kind, inner, [*marks, *arguments[1:], *of_fields]
    if origin in (Union, types.UnionType):
        return _look_into(next(each for each in arguments if each is not type(None)))
    if origin is Literal:
        return "|".join(str(choice) for choice in arguments), None, []
    if origin is dict:
        return "mapping of text to number", None, []
    if origin is tuple:
        kind, inner, _ = _look_into(arguments[0])
        return (f"list of {kind}s" if arguments[-1] is ... else f"{len(arguments)} {kind}s"), inner, []
    if annotation in _SIMPLE:
        return _SIMPLE[annotation], None, []
    return "mapping", annotation, []


def _limits(marks: list[object]) -> str:
    for mark in marks:
        for sign, name in ((">", "gt"), (">=", "ge")):
            if hasattr(mark, name):
                return f" {sign} {getattr(mark, name)}"
    return ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return str(field.default) if field.default not in (None, (), "") else "none"
