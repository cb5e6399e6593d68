"""Who may ask: keys for inference and, apart from them, for administration."""

from service.errors.base import ServiceError


class UnauthorizedError(ServiceError):
    """401: a key is needed, and none or none that is known was sent.

    Args:
        scope: What the key is for: `inference` or `admin`.
        sent: Whether there was a key at all.
    """

    status = 401
    code = "unauthorized"
    title = "The request needs a key."
    default_remedy = (
        "Send a key as `Authorization: Bearer KEY` or as `X-API-Key: KEY`; who runs the service hands them out."
    )

    def __init__(self, scope: str, *, sent: bool) -> None:
        super().__init__(
            f"The {scope} key that was sent is not known." if sent else f"The request carries no {scope} key.",
            headers={"WWW-Authenticate": f'Bearer realm="bireal-serve {scope}"'},
            extensions={"scope": scope},
        )


class AdminDisabledError(ServiceError):
    """403: administration over HTTP is off, since no admin key is set."""

    status = 403
    code = "admin-disabled"
    title = "Administration is turned off."
    default_remedy = (
        "Start the service with BIREAL_ADMIN_KEYS_FILE (a file with a key a line) or BIREAL_ADMIN_KEYS to turn it on."
    )

    def __init__(self) -> None:
        super().__init__("This service was started without an admin key, so nobody can change it over HTTP.")
