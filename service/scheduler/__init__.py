"""Bounded, fair, deadline-aware execution of model runs; see `service.scheduler.pool` for the policy."""

from service.scheduler.deadline import Deadline
from service.scheduler.fair import FairClock, Share
from service.scheduler.pool import Scheduler
from service.scheduler.work import Image, OnRun, Outcome, Output, Runnable

__all__ = [
    "Deadline",
    "FairClock",
    "Image",
    "OnRun",
    "Outcome",
    "Output",
    "Runnable",
    "Scheduler",
    "Share",
]
