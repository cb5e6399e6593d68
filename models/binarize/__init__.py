"""Binarisation methods, one per file.

A method's file defines ``METHOD``, a subclass of `Method` whose fields are the method's options. Files in this package
are discovered automatically: to add a method, add a file.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib import import_module

from models.binarize.base import Method


@cache
def method_types() -> dict[str, type[Method]]:
    """The methods of this package, by name."""
    found: dict[str, type[Method]] = {}
    for module in pkgutil.iter_modules(__path__):
        method = getattr(import_module(f"{__name__}.{module.name}"), "METHOD", None)
        if method is not None:
            assert issubclass(method, Method) and method.name == module.name
            found[module.name] = method
    return found


def get_method(name: str, options: Mapping[str, object] | None = None) -> Method:
    """Return the binarisation method called ``name``, with ``options`` overriding its defaults.

    Raises:
        ValueError: no such method or option exists, or a value is invalid; the message lists the valid names.
    """
    methods = method_types()
    if name not in methods:
        raise ValueError(f"unknown binarisation method {name!r}: use one of {', '.join(methods)}")
    known = [field.name for field in fields(methods[name])]
    for option in options or {}:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}: it has {', '.join(known) or 'none'}")
    return methods[name](**(options or {}))
