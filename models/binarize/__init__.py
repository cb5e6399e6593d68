"""Binarisation methods, one a file.

A method is a module-level ``METHOD: Method`` in its own file; `get_method` finds it by name, so that
adding a method is adding a file.
"""

from __future__ import annotations

from importlib import import_module

from models.binarize.base import Method

NAMES = ("bireal",)


def get_method(name: str) -> Method:
    """Return the binarisation method called ``name``.

    Raises:
        ValueError: if no such method exists; the message lists the valid names.
    """
    if name not in NAMES:
        raise ValueError(f"unknown binarisation method {name!r}: use one of {', '.join(NAMES)}")
    method = import_module(f"models.binarize.{name}").METHOD
    assert isinstance(method, Method)
    return method
