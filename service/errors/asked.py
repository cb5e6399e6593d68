"""Errors in what a request asks for: parameters, formats, models, variants."""

from collections.abc import Iterable

from service.errors.base import JsonValue, ServiceError, did_you_mean, named

_MODELS_COMMAND = "`python -m service models`"


class BadParameterError(ServiceError):
    """422: a query parameter, form field or header has an invalid value.

    Args:
        parameter: The name of the parameter.
        detail: What is wrong with the value, and the limits.
        remedy: What to send instead.
        local_remedy: The same for a command that asks no service. Defaults to `remedy`.
    """

    status = 422
    code = "bad-parameter"
    title = "A parameter of the request is not valid."
    default_remedy = "GET /docs lists every parameter and its values."

    def __init__(self, parameter: str, detail: str, *, remedy: str, local_remedy: str | None = None) -> None:
        self.parameter = parameter
        super().__init__(detail, remedy=remedy, local_remedy=local_remedy, extensions={"parameter": parameter})


class NotAcceptableError(ServiceError):
    """406: the response is not available in any media type that the client accepts.

    Args:
        accept: The request's `Accept` header.
        available: The available media types.
    """

    status = 406
    code = "not-acceptable"
    title = "The response is not available in an accepted format."
    default_remedy = "Accept a format that GET /docs lists for the path, or leave out the header `Accept`."

    def __init__(self, accept: str, available: Iterable[str]) -> None:
        names = list(available)
        super().__init__(
            f"The response is not available as {accept!r}.",
            remedy=f"Accept one of: {named(names)}.",
            extensions={"available": list[JsonValue](names)},
        )


class UnknownModelError(ServiceError):
    """404: no model of this name and version is served.

    Args:
        model: The requested name.
        available: The names that are served for this task.
        other_task: The task of the model of this name, if it is served for a different task than the requested one.
    """

    status = 404
    code = "unknown-model"
    title = "There is no such model."
    default_remedy = "GET /models lists the models; leave out the model for the default of the task."

    def __init__(self, model: str, available: Iterable[str] = (), *, other_task: str | None = None) -> None:
        names = sorted(available)
        begun = f"Ask for one of: {named(names)}" if names else "No model is available"
        if other_task is None:
            begun = did_you_mean(model, names) + begun
            described = "describes them" if names else "lists the models and says why they cannot run"
            remedy, local_remedy = (f"{begun}. {each} {described}." for each in ("GET /models", _MODELS_COMMAND))
        else:
            begun += ", or" if names else ";"
            remedy = f"{begun} use /{other_task} (on the command line: --task {other_task})."
            local_remedy = f"{begun} add --task {other_task}."
        super().__init__(
            f"There is no model {model!r} here."
            if other_task is None
            else f"The model {model!r} is for the task {other_task!r}, not for this one.",
            remedy=remedy,
            local_remedy=local_remedy,
            extensions={"model": model, "available": list[JsonValue](names)},
        )


class NoModelError(ServiceError):
    """404: models are served, but none for this task. Not a 503: the service is ready, and waiting will not help.

    Args:
        task: The requested task.
    """

    status = 404
    code = "no-model"
    title = "No model for this task is served."
    default_remedy = (
        "GET /models lists what is served, and what is broken. The operator can put a model for the task into the "
        "folder that BIREAL_MODEL_DIR names."
    )

    def __init__(self, task: str) -> None:
        super().__init__(
            f"There is no model for the task {task!r} here.",
            local_remedy=f"Put one into the folder that BIREAL_MODEL_DIR or --model-dir names; {_MODELS_COMMAND} lists "
            "what is in it.",
            extensions={"task": task},
        )


class UnknownVariantError(ServiceError):
    """404: no variant has this name.

    Args:
        variant: The requested name.
        available: The names that exist.
    """

    status = 404
    code = "unknown-variant"
    title = "There is no such variant."
    default_remedy = "Ask for `binary`, `reference` or `full`, or leave out the variant for the default one."

    def __init__(self, variant: str, available: Iterable[str]) -> None:
        names = list(available)
        super().__init__(
            f"There is no variant {variant!r}.",
            remedy=f"{did_you_mean(variant, names)}Ask for one of: {named(names)}.",
            extensions={"variant": variant, "available": list[JsonValue](names)},
        )


class VariantNotServedError(ServiceError):
    """422: the variant exists, but not for this model.

    Args:
        model: The model's name.
        variant: The requested variant.
        served: The variants that the model has.
        counterpart: The model that has the variant, if there is one: the binary twin of a full-precision model.
    """

    status = 422
    code = "variant-not-served"
    title = "The model has no such variant."
    default_remedy = "GET /models lists the variants of each model; leave out the variant for one that the model has."

    def __init__(self, model: str, variant: str, served: Iterable[str], counterpart: str | None = None) -> None:
        names = list(served)
        remedy = f"Ask for {named(names)}"
        remedy += f", or for the model {counterpart!r}, which has it." if counterpart else "."
        extensions: dict[str, JsonValue] = {"model": model, "variant": variant, "served": list[JsonValue](names)}
        if counterpart:
            extensions["counterpart"] = counterpart
        super().__init__(
            f"The model {model!r} cannot run as {variant!r}: it has {named(names)}.",
            remedy=remedy,
            extensions=extensions,
        )
