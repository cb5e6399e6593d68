"""What can be wrong with experiments and with what a client says of an answer."""

from collections.abc import Iterable

from service.errors.base import JsonValue, ServiceError, named


class UnknownExperimentError(ServiceError):
    """404: no experiment of this name is declared."""

    status = 404
    code = "unknown-experiment"
    title = "There is no such experiment."

    def __init__(self, name: str, available: Iterable[str]) -> None:
        names = list(available)
        super().__init__(
            f"There is no experiment called {name[:70]!r}.",
            remedy=f"GET /experiments lists them: {named(names)}.",
            extensions={"available": list[JsonValue](names)},
        )


class InvalidExperimentError(ServiceError):
    """422: an experiment cannot be declared, or changed, like this."""

    status = 422
    code = "invalid-experiment"
    title = "The experiment is not valid."
    default_remedy = "GET /docs shows what a declaration may hold; nothing was changed."


class BadTokenError(ServiceError):
    """400: a feedback token is none that this service signed."""

    status = 400
    code = "bad-feedback-token"
    title = "The feedback token is not valid."
    default_remedy = (
        "Send the `feedback_token` of an answer as it came. Replicas, and a service after a restart, know each other's "
        "tokens only if all are started with the same BIREAL_FEEDBACK_SECRETS."
    )


class ExpiredTokenError(ServiceError):
    """410: a feedback token is older than what the service keeps."""

    status = 410
    code = "expired-feedback-token"
    title = "The answer is too old for feedback."

    def __init__(self, max_age_s: float) -> None:
        super().__init__(
            f"The answer is older than {max_age_s / 86400:g} days, which is how long feedback is kept.",
            remedy="Have the image answered again, and send feedback on that answer.",
        )


class UnknownLabelError(ServiceError):
    """422: the label is no class of the model that answered."""

    status = 422
    code = "unknown-label"
    title = "The label is none of the model's classes."


class FeedbackConflictError(ServiceError):
    """409: another label was given for the same answer before."""

    status = 409
    code = "feedback-conflict"
    title = "The answer has another label already."
    default_remedy = "The first word on an answer stands. Have the image answered again to say something else."

    def __init__(self) -> None:
        super().__init__("Other feedback on this answer is stored already.")


class GroundTruthError(ServiceError):
    """422: a ground truth does not fit the answer that it is to judge."""

    status = 422
    code = "bad-ground-truth"
    title = "The ground truth cannot be used."


class FeedbackStoreError(ServiceError):
    """503: the store of feedback cannot be opened, read or written: nothing was acknowledged."""

    status = 503
    code = "feedback-store-unavailable"
    title = "The feedback store is not available."
    default_remedy = "Try again; if it lasts, who runs the service should see to the volume of BIREAL_FEEDBACK_STORE."

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": "1"})
