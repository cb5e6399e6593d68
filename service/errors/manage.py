"""What can be wrong with a change to the models that are served."""

from collections.abc import Iterable

from service.errors.base import JsonValue, ServiceError, named


class ModelInUseError(ServiceError):
    """409: the change would leave requests without an answer that have one now, or with another model's.

    Args:
        model: `NAME@VERSION`.
        reasons: What would be missing.
        remedy: Where the path that was asked takes no `force`: what it takes in its place.
    """

    status = 409
    code = "model-in-use"
    title = "The model is needed."
    default_remedy = "Load or name another one first, or send force=true."

    def __init__(self, model: str, reasons: Iterable[str], *, remedy: str | None = None) -> None:
        self.model, self.reasons = model, tuple(reasons)
        super().__init__(f"{model} is needed: {' '.join(self.reasons)}", remedy=remedy, extensions={"model": model})


class UnknownVersionLabelError(ServiceError):
    """404: a model has no such label.

    Args:
        model: Its name.
        label: The label that was named.
        available: Those that it has.
    """

    status = 404
    code = "unknown-version-label"
    title = "The model has no such label."

    def __init__(self, model: str, label: str, available: Iterable[str]) -> None:
        names = sorted(available)
        super().__init__(
            f"The model {model!r} has no label {label[:64]!r}.",
            remedy=f"It has: {named(names)}.",
            extensions={"model": model, "available": list[JsonValue](names)},
        )
