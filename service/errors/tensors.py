"""Errors that only requests of the Open Inference Protocol can have."""

from service.errors.base import ServiceError


class BadTensorError(ServiceError):
    """400: the model has no such tensor, or the tensor's data does not match its declaration."""

    status = 400
    code = "bad-tensor"
    title = "A tensor of the request is not valid."
    default_remedy = "GET /v2/models/MODEL names every input and output with its type and shape."
