"""The error tree: every failure that a client can meet, with its status, code, detail and remedy.

There is one module for each source of errors, and this package re-exports all of them. Import a new module here too,
so that the API documentation and the tests find its classes.
"""

from service.errors.access import AdminDisabledError, UnauthorizedError
from service.errors.asked import (
    BadParameterError,
    NoModelError,
    NotAcceptableError,
    UnknownModelError,
    UnknownVariantError,
    VariantNotServedError,
)
from service.errors.base import (
    PROBLEM_MEDIA_TYPE,
    PROBLEM_TYPE_PREFIX,
    JsonValue,
    ServiceError,
    did_you_mean,
    error_classes,
    kept,
    nearest,
)
from service.errors.feedback import (
    BadTokenError,
    ExpiredTokenError,
    FeedbackConflictError,
    FeedbackStoreError,
    GroundTruthError,
    InvalidExperimentError,
    UnknownExperimentError,
    UnknownLabelError,
)
from service.errors.head import HeadTimeoutError, HeadTooLargeError, MalformedRequestError
from service.errors.manage import ModelInUseError, UnknownVersionLabelError
from service.errors.state import (
    BadOutputError,
    CardError,
    DeadlineExceededError,
    ModelBrokenError,
    NotReadyError,
    OpUnavailableError,
    OverloadedError,
    QueueName,
    SettingsError,
)
from service.errors.tensors import BadTensorError
from service.errors.upload import (
    BodyTooLargeError,
    BrokenImageError,
    EmptyBodyError,
    ImageTooComplexError,
    ImageTooLargeError,
    MalformedBodyError,
    TooManyImagesError,
    UnsupportedEncodingError,
    UnsupportedImageError,
    UploadTimeoutError,
)

__all__ = [
    "PROBLEM_MEDIA_TYPE",
    "PROBLEM_TYPE_PREFIX",
    "AdminDisabledError",
    "BadOutputError",
    "BadParameterError",
    "BadTensorError",
    "BadTokenError",
    "BodyTooLargeError",
    "BrokenImageError",
    "CardError",
    "DeadlineExceededError",
    "EmptyBodyError",
    "ExpiredTokenError",
    "FeedbackConflictError",
    "FeedbackStoreError",
    "GroundTruthError",
    "HeadTimeoutError",
    "HeadTooLargeError",
    "ImageTooComplexError",
    "ImageTooLargeError",
    "InvalidExperimentError",
    "JsonValue",
    "MalformedBodyError",
    "MalformedRequestError",
    "ModelBrokenError",
    "ModelInUseError",
    "NoModelError",
    "NotAcceptableError",
    "NotReadyError",
    "OpUnavailableError",
    "OverloadedError",
    "QueueName",
    "ServiceError",
    "SettingsError",
    "TooManyImagesError",
    "UnauthorizedError",
    "UnknownExperimentError",
    "UnknownLabelError",
    "UnknownModelError",
    "UnknownVariantError",
    "UnknownVersionLabelError",
    "UnsupportedEncodingError",
    "UnsupportedImageError",
    "UploadTimeoutError",
    "VariantNotServedError",
    "did_you_mean",
    "error_classes",
    "kept",
    "nearest",
]
