"""What Prometheus can know of the service: every sample name with its labels."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from service.metrics import Metrics

#: What Prometheus itself adds to each sample.
TARGET_LABELS = frozenset({"job", "instance"})


def exported_samples() -> dict[str, set[str]]:
    """Sample names of the service and of its scrape, with their labels beside those of the target."""
    labels: dict[str, set[str]] = {"up": set()}
    metrics = Metrics(CollectorRegistry())
    # The Prometheus client's own figures of the process are not documented one by one; they have no labels.
    for family in metrics.registry.collect():
        labels |= {sample.name: set() for sample in family.samples if sample.name.startswith("process_")}
    for doc in metrics.documentation():
        if doc.type == "histogram":
            labels[f"{doc.name}_bucket"] = {*doc.labels, "le"}
            labels[f"{doc.name}_sum"] = labels[f"{doc.name}_count"] = set(doc.labels)
        else:
            labels[doc.name] = set(doc.labels)
    return labels
