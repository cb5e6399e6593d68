"""PromQL expressions used by the dashboards, and their common selectors."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.grafana.panels import Variable

#: Matches the selection at the top of a dashboard.
CHOSEN = 'task=~"$task",model=~"$model"'

VARIABLES = (
    Variable("task", "Task", "bireal_model_ready"),
    Variable("model", "Model", "bireal_model_ready"),
)


def select(metric: str, *matchers: str) -> str:
    """A selector: `metric{a,b}`."""
    return f"{metric}{{{','.join(matchers)}}}" if matchers else metric


def rate(counter: str, *matchers: str) -> str:
    """A counter's increase per second."""
    return f"rate({select(counter, *matchers)}[$__rate_interval])"


def quantile(share: float, histogram: str, by: Sequence[str], *matchers: str) -> str:
    """A quantile of a histogram, one series per combination of the labels `by`."""
    labels = ", ".join(("le", *by))
    return f"histogram_quantile({share:g}, sum by ({labels}) ({rate(f'{histogram}_bucket', *matchers)}))"


def mean(histogram: str, by: Sequence[str], *matchers: str) -> str:
    """The mean of a histogram's observations, one series per combination of the labels `by`."""
    labels = ", ".join(by)
    total, count = (f"sum by ({labels}) ({rate(f'{histogram}_{part}', *matchers)})" for part in ("sum", "count"))
    return f"{total} / {count}"


def busy(by: Sequence[str], *matchers: str) -> str:
    """Seconds of runs a second, i.e. the mean number of busy workers, one series per combination of the labels `by`.

    Each image of a batch has the time of its whole run, so the sum over images is divided by the images a run. Where
    nothing ran, these are unknown, and the sum is 0.
    """
    labels = ", ".join(by)
    seconds = rate("bireal_stage_seconds_sum", *matchers, 'stage="inference"')
    over_images = f"sum by ({labels}) ({seconds})"
    return f"{over_images} / (({mean('bireal_batch_size', by, *matchers)}) >= 1) or {over_images}"
