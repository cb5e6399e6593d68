"""Authentication by keys: one set for inference, one for administration.

Each set may have several keys, so that a new one can be issued before the old one is revoked. Without inference keys,
inference is open to everybody; without admin keys, administration is off. A request sends its key as
`Authorization: Bearer KEY` or `X-API-Key: KEY`. Keys are stored as SHA-256 digests, compared in constant time, and
never logged: the log identifies a key by the first digits of its digest, which shows whether an old one is in use.

The guard is middleware that runs before the body is read. It is closed by default: a path that is not listed as open
needs a key.
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Literal

from fastapi import Depends
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.context import context_of
from service.errors import AdminDisabledError, UnauthorizedError
from service.keys import keys_of
from service.settings import Settings

KEY_HEADER = "x-api-key"
Surface = Literal["open", "inference", "admin"]

# Probes and scrapers have no keys. The page and the documentation are the same for everybody and contain no data.
_OPEN = frozenset({"/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/favicon.ico", "/v2"})
_OPEN_BELOW = ("/ui/", "/docs/", "/problems/", "/v2/health/")
_ADMIN = frozenset({"/admin"})
_ADMIN_BELOW = ("/admin/", "/v2/repository/")


def surface_of(path: str) -> Surface:
    """The set of keys that a path needs, by the decoded path, as in routing."""
    if path in _ADMIN or path.startswith(_ADMIN_BELOW):
        return "admin"
    if path in _OPEN or path.startswith(_OPEN_BELOW):
        return "open"
    return "inference"


class KeyRing:
    """The keys of one surface, as digests.

    Args:
        keys: The keys as text.
    """

    def __init__(self, keys: list[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def name_of(self, key: str) -> str | None:
        """The log's name of a key; None if it is unknown. Takes the same time for every key."""
        digest = _digest(key)
        known = False
        for candidate in self._digests:
            known |= hmac.compare_digest(digest, candidate)
        return digest.hex()[:8] if known else None


@dataclass(frozen=True, slots=True)
class Auth:
    """The keys of a service.

    Attributes:
        inference: Keys for inference; if empty, no key is needed.
        admin: Keys for administration; if empty, administration is off.
    """

    inference: KeyRing
    admin: KeyRing

    @classmethod
    def of(cls, settings: Settings) -> "Auth":
        """Reads the keys from the settings.

        Raises:
            SettingsError: A key file cannot be read, holds no key, or holds an invalid one.
        """
        return cls(
            inference=KeyRing(keys_of(settings.api_keys, settings.api_keys_file, "BIREAL_API_KEYS_FILE")),
            admin=KeyRing(keys_of(settings.admin_keys, settings.admin_keys_file, "BIREAL_ADMIN_KEYS_FILE")),
        )

    def check(self, scope: Scope) -> None:
        """Checks that a request may proceed.

        Raises:
            UnauthorizedError: It needs a key, but has none or an unknown one.
            AdminDisabledError: It is for administration, which is off.
        """
        surface = surface_of(scope["path"])
        if surface == "admin":
            self.check_admin(scope)
        elif surface == "inference" and self.inference:
            _check(self.inference, "inference", scope)

    def check_admin(self, scope: Scope) -> None:
        """Checks that a request has an admin key; see `check`."""
        if not self.admin:
            raise AdminDisabledError
        _check(self.admin, "admin", scope)


class KeyGuard:
    """Middleware that checks keys before any of the body is read.

    Args:
        app: The inner application.
        auth: The keys.
    """

    def __init__(self, app: ASGIApp, *, auth: Auth) -> None:
        self._app, self._auth = app, auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI connection."""
        if scope["type"] == "http":
            self._auth.check(scope)
        await self._app(scope, receive, send)


async def require_admin(request: Request) -> None:
    """A dependency that requires an admin key: for routes outside /admin, and as a second check within it."""
    auth: Auth = request.app.state.services.auth
    auth.check_admin(request.scope)


#: For `APIRouter(dependencies=[RequireAdmin])`.
RequireAdmin = Depends(require_admin)


def _check(ring: KeyRing, surface: str, scope: Scope) -> None:
    key = _key(Headers(scope=scope))
    name = None if key is None else ring.name_of(key)
    if name is None:
        raise UnauthorizedError(surface, sent=key is not None)
    context_of(scope).labels["key"] = name


def _key(headers: Headers) -> str | None:
    """The key of a request, from either header."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get(KEY_HEADER) or None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
