"""The exceptions that calls raise."""

from typing import Any

from service.schemas import Problem


class ClientError(Exception):
    """Base class of all errors of the client."""


class ProblemError(ClientError):
    """The service reported an error.

    Attributes:
        problem: The problem document (RFC 9457); `problem.code` is stable, for programs.
        status: HTTP status.
        retry_after_s: Seconds that the service asked to wait; None if it did not ask.
    """

    def __init__(self, problem: Problem, status: int, retry_after_s: float | None = None) -> None:
        self.problem, self.status, self.retry_after_s = problem, status, retry_after_s
        super().__init__(f"{problem.detail} {problem.help}".strip())

    @property
    def code(self) -> str:
        """The problem's stable code, such as `overloaded`."""
        return self.problem.code

    @property
    def request_id(self) -> str | None:
        """The id under which the service logged the request."""
        return self.problem.request_id

    @property
    def extensions(self) -> dict[str, Any]:
        """Additional members of the document, such as `available`."""
        return self.problem.model_extra or {}


class NetworkSettingsError(ClientError, ValueError):
    """The proxy or certificate settings in the environment cannot be used, so there is no client."""


class TransportError(ClientError):
    """There was no response from the service: not reached, broken off, timed out, or a proxy answered."""


class RetryLimitError(TransportError):
    """The last of several tries failed without a response; `__cause__` is its error."""
