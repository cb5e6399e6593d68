"""The models of a folder, loaded apart from each other, and the rules by which a request finds its network."""

from service.registry.entries import Entry, Handle, Loaded, Readiness
from service.registry.registry import OnLoaded, Registry

__all__ = ["Entry", "Handle", "Loaded", "OnLoaded", "Readiness", "Registry"]
