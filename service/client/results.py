"""Answers that have no wire type of their own."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True, slots=True)
class DepthMap:
    """A depth map and what ran.

    Attributes:
        metres: float32 [H, W].
        model: The model that ran.
        version: Its version.
        variant: The variant that ran.
        kernel: Instruction set of its kernel, or `onnxruntime`.
        request_id: Under which the service logged it.
        feedback_token: To be sent with feedback, where the service takes any.
    """

    metres: npt.NDArray[np.float32]
    model: str
    version: str
    variant: str
    kernel: str
    request_id: str
    feedback_token: str | None


class FeedbackResult(BaseModel):
    """What became of feedback."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    status: Literal["stored", "repeated"]
    request_id: str
    model: str
    version: str
    variant: str
    correct: bool | None = None
    correct_top5: bool | None = None
    abs_rel: float | None = None
    delta1: float | None = None
