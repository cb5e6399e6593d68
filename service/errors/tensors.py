"""What can be wrong with a request of the Open Inference Protocol, beside what can be wrong with any request."""

from service.errors.base import ServiceError


class BadTensorError(ServiceError):
    """400: a tensor of the request is not one that the model takes, or its data is not what is said of it."""

    status = 400
    code = "bad-tensor"
    title = "A tensor of the request is not valid."
    default_remedy = "GET /v2/models/MODEL names every input and output with its type and shape."
