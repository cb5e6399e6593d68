"""Errors of experiments and of feedback on answers."""

from collections.abc import Iterable

from service.errors.base import JsonValue, ServiceError, did_you_mean, named


class UnknownExperimentError(ServiceError):
    """404: no experiment of this name is declared."""

    status = 404
    code = "unknown-experiment"
    title = "There is no such experiment."
    default_remedy = "GET /experiments lists the experiments; an operator declares them."

    def __init__(self, name: str, available: Iterable[str]) -> None:
        names = list(available)
        super().__init__(
            f"There is no experiment called {name[:70]!r}.",
            remedy=f"{did_you_mean(name, names)}GET /experiments lists them: {named(names)}.",
            extensions={"available": list[JsonValue](names)},
        )


class InvalidExperimentError(ServiceError):
    """422: an experiment's declaration, or a change to it, is not valid."""

    status = 422
    code = "invalid-experiment"
    title = "The experiment is not valid."
    default_remedy = "Nothing was changed. GET /docs shows what a declaration may contain."


class BadTokenError(ServiceError):
    """400: this service did not sign the feedback token."""

    status = 400
    code = "bad-feedback-token"
    title = "The feedback token is not valid."
    default_remedy = (
        "Send the `feedback_token` of an answer unchanged. Other replicas, or the service after a restart, accept it "
        "only if all are started with the same BIREAL_FEEDBACK_SECRETS."
    )


class ExpiredTokenError(ServiceError):
    """410: a feedback token is older than the time for which the service keeps feedback."""

    status = 410
    code = "expired-feedback-token"
    title = "The answer is too old for feedback."
    default_remedy = "Send the image again, and give feedback on the new answer."

    def __init__(self, max_age_s: float) -> None:
        super().__init__(f"The answer is older than {max_age_s / 86400:g} days, which is how long feedback is kept.")


class UnknownLabelError(ServiceError):
    """422: the label is not a class of the model that answered."""

    status = 422
    code = "unknown-label"
    title = "The label is not one of the model's classes."
    default_remedy = "Send the index, the WordNet id or the name of a class from the card of the model that answered."


class FeedbackConflictError(ServiceError):
    """409: the same answer already has a different label."""

    status = 409
    code = "feedback-conflict"
    title = "The answer already has a different label."
    default_remedy = "The first feedback on an answer counts. To give a different one, send the image again."

    def __init__(self) -> None:
        super().__init__("Different feedback on this answer is already stored.")


class GroundTruthError(ServiceError):
    """422: the ground truth does not fit the answer."""

    status = 422
    code = "bad-ground-truth"
    title = "The ground truth cannot be used."
    default_remedy = (
        "Send the picture that was answered, and its measured depth: metres, in the size of the picture, as a 16-bit "
        "grey PNG (metres x 256) or an .npy. A label for a classifier goes to /feedback, depth to /feedback/depth."
    )


class FeedbackStoreError(ServiceError):
    """503: the feedback store cannot be opened, read or written. Nothing was acknowledged."""

    status = 503
    code = "feedback-store-unavailable"
    title = "The feedback store is not available."
    default_remedy = "Try again. If it persists, the operator should check the volume of BIREAL_FEEDBACK_STORE."

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": "1"})
