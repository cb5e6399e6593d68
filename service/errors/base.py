"""The root of the error tree, and how an error becomes a problem document.

Each class is one row of the API's documentation: `status` (HTTP), `code` (kebab-case, stable: clients branch on
it) and `title` (one sentence that never varies) are class attributes; `detail` (what happened, and the limit) and
`remedy` (what to do about it) are given, or built by the class from what it is told. `problem()` renders RFC 9457.

Code that is not an HTTP handler raises these too: they are ordinary exceptions that print as "detail remedy".
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Self

JsonValue = str | int | float | bool | None | list["JsonValue"] | dict[str, "JsonValue"]

#: Prefix of a problem's `type`: relative on purpose (RFC 9457 section 3.1.1), to this service's own address.
PROBLEM_TYPE_PREFIX = "/problems/"


class ServiceError(Exception):
    """Base of all errors that the service reports to a client.

    Args:
        detail: What happened in this occurrence, with the limit that was passed if there is one.
        remedy: What the client, or the operator, can do about it. Defaults to the class's `default_remedy`.
        headers: Further HTTP headers of the answer, such as `Retry-After`.
        extensions: Further members of the problem document (RFC 9457 section 3.2), such as the valid names.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "The service failed."
    default_remedy: ClassVar[str] = "Try again; if it happens again, report it with the request id."

    def __init__(
        self,
        detail: str,
        *,
        remedy: str | None = None,
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, JsonValue] | None = None,
    ) -> None:
        self.detail = detail
        self.remedy = self.default_remedy if remedy is None else remedy
        self.headers: dict[str, str] = dict(headers or {})
        self.extensions: dict[str, JsonValue] = dict(extensions or {})
        super().__init__(f"{detail} {self.remedy}".strip())

    def about(self, what: str) -> Self:
        """Says which of several things that were sent the error is about: its detail begins with it."""
        self.detail = f"{what}: {self.detail}"
        self.args = (f"{self.detail} {self.remedy}".strip(),)
        return self

    def problem(self, *, instance: str | None = None, request_id: str | None = None) -> dict[str, JsonValue]:
        """Renders the error as an RFC 9457 problem document.

        Args:
            instance: The path of the request, the document's `instance`.
            request_id: The id under which the request was logged.

        Returns:
            A JSON-ready dict: type, title, status, detail, code, help, and, when known, instance, request_id and
            the extensions.
        """
        document: dict[str, JsonValue] = {
            "type": PROBLEM_TYPE_PREFIX + self.code,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "help": self.remedy,
        }
        if instance is not None:
            document["instance"] = instance
        if request_id is not None:
            document["request_id"] = request_id
        for key, value in self.extensions.items():
            document.setdefault(key, value)  # an extension never replaces a member that the RFC or we define
        return document


def named(names: Iterable[str]) -> str:
    """Lists names for a message: "a, b, c", or "none"."""
    return ", ".join(names) or "none"


def error_classes() -> Iterator[type[ServiceError]]:
    """Yields every class of the tree, base first, for the API's documentation and for tests."""
    pending: list[type[ServiceError]] = [ServiceError]
    while pending:
        current = pending.pop(0)
        yield current
        pending.extend(current.__subclasses__())
