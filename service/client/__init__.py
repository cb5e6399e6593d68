"""Typed clients, synchronous and asynchronous: `with Client(url) as service: service.classify("photo.jpg")`."""

from service.client.asynchronous import AsyncClient
from service.client.errors import ClientError, NetworkSettingsError, ProblemError, RetryLimitError, TransportError
from service.client.results import DepthMap, FeedbackResult, PointCloud
from service.client.retry import Retry
from service.client.synchronous import Client

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "DepthMap",
    "FeedbackResult",
    "NetworkSettingsError",
    "PointCloud",
    "ProblemError",
    "Retry",
    "RetryLimitError",
    "TransportError",
]
