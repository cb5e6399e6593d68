"""Loads the models of a folder independently of each other, and resolves requests to networks."""

from service.registry.changes import Changes, VersionState
from service.registry.entries import Entry, Handle, Loaded, Readiness
from service.registry.loader import OnLoaded
from service.registry.registry import Registry

__all__ = ["Changes", "Entry", "Handle", "Loaded", "OnLoaded", "Readiness", "Registry", "VersionState"]
