"""Errors in changes to the served models."""

from collections.abc import Iterable

from service.errors.base import JsonValue, ServiceError, named


class ModelInUseError(ServiceError):
    """409: requests that are answered now would fail after the change, or be answered by a different model.

    Args:
        model: `NAME@VERSION`.
        reasons: What would be missing.
        remedy: What to do instead, for a path that does not accept `force`.
    """

    status = 409
    code = "model-in-use"
    title = "The model is needed."
    default_remedy = "Load or name another model first, or send force=true."

    def __init__(self, model: str, reasons: Iterable[str], *, remedy: str | None = None) -> None:
        self.model, self.reasons = model, tuple(reasons)
        super().__init__(f"{model} is needed: {' '.join(self.reasons)}", remedy=remedy, extensions={"model": model})


class UnknownVersionLabelError(ServiceError):
    """404: the model has no such version label.

    Args:
        model: The model's name.
        label: The requested label.
        available: The labels that the model has.
    """

    status = 404
    code = "unknown-version-label"
    title = "The model has no such label."
    default_remedy = "GET /models lists the labels of each version."

    def __init__(self, model: str, label: str, available: Iterable[str]) -> None:
        names = sorted(available)
        super().__init__(
            f"The model {model!r} has no label {label[:64]!r}.",
            remedy=f"It has: {named(names)}.",
            extensions={"model": model, "available": list[JsonValue](names)},
        )
