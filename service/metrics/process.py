"""Metrics of the process: its memory, its limit, and what it was built of."""

from collections.abc import Iterator

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service import host
from service.metrics.base import Registrar


class MemoryCollector(Collector):
    """This process's memory and its limit, read from /proc and the cgroup when Prometheus asks."""

    def collect(self) -> Iterator[Metric]:
        """Yields the figures that the machine states."""
        for name, description, value in (
            ("bireal_process_resident_memory_bytes", "Memory of the process in RAM.", host.resident_memory_bytes()),
            ("bireal_process_peak_memory_bytes", "The most it ever was.", host.peak_memory_bytes()),
            ("bireal_memory_limit_bytes", "Limit of the container; absent without one.", host.memory_limit_bytes()),
        ):
            family = GaugeMetricFamily(name, description)
            if value is not None:
                family.add_metric([], value)
            yield family


class ProcessMetrics:
    """What runs the service.

    Args:
        metrics: Where they are made.
    """

    def __init__(self, metrics: Registrar) -> None:
        self._build = metrics.gauge(
            "bireal_build_info",
            "1; the versions, the kernel in use and those that this CPU could run.",
            ("version", "python", "onnxruntime", "kernel", "kernels"),
        )
        metrics.collector(MemoryCollector())
        ProcessCollector(registry=metrics.registry)

    def set_build(self, *, version: str, python: str, onnxruntime: str, kernel: str, kernels: str) -> None:
        """Shows versions, the kernel in use and those that this CPU could run, separated by commas."""
        self._build.clear()
        self._build.labels(version=version, python=python, onnxruntime=onnxruntime, kernel=kernel, kernels=kernels).set(
            1
        )
