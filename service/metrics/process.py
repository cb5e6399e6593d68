"""Metrics of the process: its memory, its memory limit, and its build."""

from collections.abc import Iterator

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service import host
from service.metrics.base import Registrar


class MemoryCollector(Collector):
    """This process's memory and its limit, read from /proc and the cgroup at each scrape."""

    def collect(self) -> Iterator[Metric]:
        """Yields the gauges; those that the system does not report have no value."""
        for name, description, value in (
            ("bireal_process_resident_memory_bytes", "Resident memory.", host.resident_memory_bytes()),
            ("bireal_process_peak_memory_bytes", "Peak of the resident memory.", host.peak_memory_bytes()),
            ("bireal_memory_limit_bytes", "Memory limit; absent without one.", host.memory_limit_bytes()),
        ):
            family = GaugeMetricFamily(name, description)
            if value is not None:
                family.add_metric([], value)
            yield family


class ProcessMetrics:
    """Metrics of the process that runs the service.

    Args:
        metrics: Registrar for the metrics.
    """

    def __init__(self, metrics: Registrar) -> None:
        self._build = metrics.gauge(
            "bireal_build_info",
            "Always 1; labels are the versions, the commit of the sources, the kernel in use and all kernels that this "
            "CPU can run.",
            ("version", "revision", "python", "onnxruntime", "kernel", "kernels"),
        )
        metrics.collector(MemoryCollector())
        ProcessCollector(registry=metrics.registry)

    def set_build(
        self, *, version: str, revision: str, python: str, onnxruntime: str, kernel: str, kernels: str
    ) -> None:
        """Sets the versions, the commit, the kernel in use and those that this CPU can run, separated by commas."""
        self._build.clear()
        self._build.labels(
            version=version, revision=revision, python=python, onnxruntime=onnxruntime, kernel=kernel, kernels=kernels
        ).set(1)
