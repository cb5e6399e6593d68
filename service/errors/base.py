"""The root of the error tree, and how an error becomes a problem document.

Each class is one row of the API documentation. Three class attributes are fixed: `status` (HTTP), `code` (kebab-case
and stable, because clients branch on it) and `title` (one sentence that never varies). `detail` (what happened, and
the limit) and `remedy` (what to do about it) are passed in, or the class builds them from its arguments. Each class
also has a `default_remedy`, which helps whatever the occurrence: `/problems/CODE` shows it. `default_local_remedy` is
the same for a command that asks no service, where that differs. `problem()` renders the RFC 9457 document.

Code outside HTTP handlers raises these errors too: they are ordinary exceptions that print as "detail remedy".
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Self

JsonValue = str | int | float | bool | None | list["JsonValue"] | dict[str, "JsonValue"]

#: Prefix of a problem's `type`. Deliberately relative to the service's own address (RFC 9457 section 3.1.1).
PROBLEM_TYPE_PREFIX = "/problems/"
PROBLEM_MEDIA_TYPE = "application/problem+json"

# No name of the service is longer; comparing a longer one would only take time.
_LONGEST_NAME = 100


class ServiceError(Exception):
    """Base class of all errors that the service reports to a client.

    Args:
        detail: What happened in this occurrence, including the limit that was exceeded, if any.
        remedy: What the client or the operator can do about it. Defaults to the class's `default_remedy`.
        local_remedy: The same for a command that asks no service. Defaults to `remedy` if that is given, else to the
            class's `default_local_remedy`, if it has one.
        headers: Additional HTTP headers of the response, such as `Retry-After`.
        extensions: Additional members of the problem document (RFC 9457 section 3.2), such as the valid names.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "The service failed."
    default_remedy: ClassVar[str] = "Try again. If it happens again, report it with the request id."
    default_local_remedy: ClassVar[str | None] = None

    def __init__(
        self,
        detail: str,
        *,
        remedy: str | None = None,
        local_remedy: str | None = None,
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, JsonValue] | None = None,
    ) -> None:
        self.detail = detail
        if remedy is None and local_remedy is None:
            local_remedy = self.default_local_remedy
        self.remedy = self.default_remedy if remedy is None else remedy
        self.local_remedy = self.remedy if local_remedy is None else local_remedy
        self.headers: dict[str, str] = dict(headers or {})
        self.extensions: dict[str, JsonValue] = dict(extensions or {})
        super().__init__(f"{detail} {self.remedy}".strip())

    def about(self, what: str) -> Self:
        """Prefixes the detail with the part of the request that the error is about."""
        self.detail = f"{what}: {self.detail}"
        self.args = (f"{self.detail} {self.remedy}".strip(),)
        return self

    def again(self) -> Self:
        """Copies an error that is kept, without its traceback, to raise it.

        Raised itself, it would get the frames of every caller, and keep what they refer to.
        """
        copy = type(self).__new__(type(self), *self.args)
        copy.__dict__.update(self.__dict__, headers=dict(self.headers), extensions=dict(self.extensions))
        return copy

    def problem(self, *, instance: str | None = None, request_id: str | None = None) -> dict[str, JsonValue]:
        """Renders the error as an RFC 9457 problem document.

        Args:
            instance: The path of the request, which becomes the document's `instance`.
            request_id: The id under which the request was logged.

        Returns:
            A JSON-ready dict with type, title, status, detail, code and help, plus instance and request_id if known,
            and the extensions.
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
            document.setdefault(key, value)  # an extension never replaces a standard member
        return document


def kept(error: ServiceError) -> ServiceError:
    """An error to be kept for later, without the frames of its traceback, which refer to an upload or a network."""
    cause: BaseException | None = error
    while cause is not None:
        cause = cause.with_traceback(None).__context__
    return error


def named(names: Iterable[str]) -> str:
    """Joins names for a message: "a, b, c", or "none"."""
    return ", ".join(names) or "none"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar to a misspelt one, in any case; None if none is similar."""
    if len(name) > _LONGEST_NAME:
        return None
    folded = {each.casefold(): each for each in known}
    found = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The beginning of a remedy: a question with the nearest name, and a space; empty if none is similar."""
    near = nearest(name, known)
    return "" if near is None else f"Did you mean {near!r}? "


def error_classes() -> Iterator[type[ServiceError]]:
    """Yields every class of the tree, base first, for the API documentation and for tests."""
    pending: list[type[ServiceError]] = [ServiceError]
    while pending:
        current = pending.pop(0)
        yield current
        pending.extend(current.__subclasses__())
