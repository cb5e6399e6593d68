"""From the bytes of an image to its answer, without HTTP: the handlers and the offline commands use it alike."""

from service.pipeline.answered import Answered, Job, only
from service.pipeline.context import ImageTimes, RequestContext
from service.pipeline.pipeline import Pipeline, Side
from service.pipeline.telemetry import Telemetry
from service.pipeline.threads import ThreadPool
from service.pipeline.upload import Upload, picture_digest

__all__ = [
    "Answered",
    "ImageTimes",
    "Job",
    "Pipeline",
    "RequestContext",
    "Side",
    "Telemetry",
    "ThreadPool",
    "Upload",
    "only",
    "picture_digest",
]
