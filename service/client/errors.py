"""What can go wrong with a call, for whoever makes it."""

from typing import Any

from service.schemas import Problem


class ClientError(Exception):
    """Base of all errors of the client."""


class ProblemError(ClientError):
    """The service refused or failed, and said why.

    Attributes:
        problem: Its problem document (RFC 9457); `problem.code` is stable, for programs.
        status: HTTP status.
        retry_after_s: What the service asked to wait, seconds; None where it did not.
    """

    def __init__(self, problem: Problem, status: int, retry_after_s: float | None = None) -> None:
        self.problem, self.status, self.retry_after_s = problem, status, retry_after_s
        super().__init__(f"{problem.detail} {problem.help}".strip())

    @property
    def code(self) -> str:
        """The problem's stable name, such as `overloaded`."""
        return self.problem.code

    @property
    def request_id(self) -> str | None:
        """The id under which the service logged the request."""
        return self.problem.request_id

    @property
    def extensions(self) -> dict[str, Any]:
        """Further members of the document, such as `available`."""
        return self.problem.model_extra or {}


class TransportError(ClientError):
    """There was no answer, or none of the service: not reached, broken off, timed out, or a proxy's page."""


class RetryLimitError(TransportError):
    """The last of several tries failed without an answer; `__cause__` is what it failed with."""
