"""The models of a folder, loaded apart from each other, and the rules by which a request finds its network."""

from service.registry.changes import Changes, VersionState
from service.registry.entries import Entry, Handle, Loaded, Readiness
from service.registry.loader import OnLoaded
from service.registry.registry import Registry

__all__ = ["Changes", "Entry", "Handle", "Loaded", "OnLoaded", "Readiness", "Registry", "VersionState"]
