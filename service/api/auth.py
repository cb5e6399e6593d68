"""Keys: who may have pictures answered, and who may change the service.

Two sets of keys, each of any number so that a new one can be handed out before the old one goes. Without inference
keys everybody may ask; without admin keys nobody may administer. A key comes as `Authorization: Bearer KEY` or as
`X-API-Key: KEY`. Keys are kept as SHA-256 digests, compared in constant time, and never logged: the log names a key by
the first digits of its digest, which is enough to see whether an old one is still in use.

The guard is middleware, before the body is read, and closed by default: what is not listed as open needs a key.
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

# Probes and scrapers have no keys; the page and the documents are the same for everybody and hold no data.
_OPEN = frozenset({"/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/favicon.ico", "/v2"})
_OPEN_BELOW = ("/ui/", "/docs/", "/problems/", "/v2/health/")
_ADMIN = frozenset({"/admin"})
_ADMIN_BELOW = ("/admin/", "/v2/repository/")


def surface_of(path: str) -> Surface:
    """Which keys a path needs, by the decoded path that routing sees too."""
    if path in _ADMIN or path.startswith(_ADMIN_BELOW):
        return "admin"
    if path in _OPEN or path.startswith(_OPEN_BELOW):
        return "open"
    return "inference"


class KeyRing:
    """Keys of one surface, as digests.

    Args:
        keys: The keys.
    """

    def __init__(self, keys: list[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def name_of(self, key: str) -> str | None:
        """What the log calls a key; None for one that is not known. Takes the same time whichever key it is."""
        digest = _digest(key)
        known = False
        for candidate in self._digests:
            known |= hmac.compare_digest(digest, candidate)
        return digest.hex()[:8] if known else None


@dataclass(frozen=True, slots=True)
class Auth:
    """The keys of a service.

    Attributes:
        inference: Empty where everybody may ask.
        admin: Empty where nobody may administer.
    """

    inference: KeyRing
    admin: KeyRing

    @classmethod
    def of(cls, settings: Settings) -> "Auth":
        """Reads the keys of the settings.

        Raises:
            SettingsError: A key file cannot be read, holds no key, or one that is too weak.
        """
        return cls(
            inference=KeyRing(keys_of(settings.api_keys, settings.api_keys_file, "BIREAL_API_KEYS_FILE")),
            admin=KeyRing(keys_of(settings.admin_keys, settings.admin_keys_file, "BIREAL_ADMIN_KEYS_FILE")),
        )

    def check(self, scope: Scope) -> None:
        """Lets a request pass or raises.

        Raises:
            UnauthorizedError: It needs a key and has none that is known.
            AdminDisabledError: It is for administration, which is turned off.
        """
        surface = surface_of(scope["path"])
        if surface == "admin":
            self.check_admin(scope)
        elif surface == "inference" and self.inference:
            _check(self.inference, "inference", scope)

    def check_admin(self, scope: Scope) -> None:
        """Lets an administrator pass or raises; see `check`."""
        if not self.admin:
            raise AdminDisabledError
        _check(self.admin, "admin", scope)


class KeyGuard:
    """Middleware that asks for keys before anything of a body is read.

    Args:
        app: The application within.
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
    """A route's dependency: only an administrator passes. For routes outside /admin, and as a second lock within."""
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
    """The key that a request carries, in either form."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get(KEY_HEADER) or None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
