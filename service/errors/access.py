"""Errors of authentication: inference keys and, separate from them, admin keys."""

from service.errors.base import ServiceError


class UnauthorizedError(ServiceError):
    """401: a key is needed, and the request carried none or an unknown one.

    Args:
        scope: What the key is for: `inference` or `admin`.
        sent: Whether the request carried a key at all.
    """

    status = 401
    code = "unauthorized"
    title = "The request needs a key."
    default_remedy = (
        "Send a key as `Authorization: Bearer KEY` or as `X-API-Key: KEY`. The operator of the service issues keys."
    )

    def __init__(self, scope: str, *, sent: bool) -> None:
        super().__init__(
            f"The service does not know this {scope} key." if sent else f"The request carries no {scope} key.",
            headers={"WWW-Authenticate": f'Bearer realm="bireal-serve {scope}"'},
            extensions={"scope": scope},
        )


class AdminDisabledError(ServiceError):
    """403: administration over HTTP is off because no admin key is set."""

    status = 403
    code = "admin-disabled"
    title = "Administration is turned off."
    default_remedy = (
        "To turn it on, start the service with BIREAL_ADMIN_KEYS_FILE (a file with one key per line) or "
        "BIREAL_ADMIN_KEYS."
    )

    def __init__(self) -> None:
        super().__init__("This service was started without an admin key, so nobody can change it over HTTP.")
