"""The dashboard *Models*: which versions are served, what their cards promise, and whether they still compute it."""

from __future__ import annotations

from deploy.grafana.panels import NO_MODEL, Dashboard, Query, Row, bars, lines, stat, table
from deploy.grafana.promql import CHOSEN, VARIABLES, quantile, rate, select

_INFERENCE = 'stage="inference"'
_NOT_OK = 'outcome!="ok"'
_SHARES = 'metric=~"top1|top5|delta1.*"'
_NO_FIGURES = "The cards of the loaded models name no figures"

_VERSION = "task, model, version, variant"

_SERVED = Row(
    "What is served",
    (
        stat(
            "Variants ready",
            "Variants of models that are warm and answer, of all replicas together.",
            Query(f"sum({select('bireal_model_ready', CHOSEN)})"),
            unit="short",
            empty=NO_MODEL,
            width=3,
        ),
        stat(
            "Variants that cannot run",
            "Variants that were tried and are not ready: /models says why.",
            Query(f"sum(1 - {select('bireal_model_ready', CHOSEN)})"),
            unit="short",
            empty=NO_MODEL,
            width=3,
            thresholds=(("green", None), ("red", 1)),
        ),
        table(
            "Versions",
            "Each variant of each version with the kernel that runs it, whether it is ready everywhere, and the "
            "longest time that loading and warming it took.",
            f"min by ({_VERSION}, kernel) ({select('bireal_model_ready', CHOSEN)})",
            f"max by ({_VERSION}, kernel) ({select('bireal_model_load_seconds', CHOSEN)})",
            unit="none",
            empty=NO_MODEL,
            width=18,
            columns=("task", "model", "version", "variant", "kernel"),
            values=("ready", "load, s"),
            decimals=3,
        ),
    ),
    height=9,
)

_TRAFFIC = Row(
    "Traffic by version",
    (
        lines(
            "Rate by version",
            "Images a second that each version answered or failed to: a rollout shows here.",
            Query(
                f"sum by (model, version, variant) ({rate('bireal_requests_total', CHOSEN)})",
                "{{model}}@{{version}} {{variant}}",
            ),
            unit="ops",
            width=6,
            stacked=True,
        ),
        lines(
            "Not answered by version",
            "Images a second that got no answer, by version: compare the new one with the old one during a rollout.",
            Query(
                f"sum by (model, version, variant) ({rate('bireal_requests_total', CHOSEN, _NOT_OK)})",
                "{{model}}@{{version}} {{variant}}",
            ),
            unit="ops",
            width=6,
            empty="Every image was answered",
        ),
        lines(
            "Inference by version, 95th percentile",
            "Time of one run of the network.",
            Query(
                quantile(0.95, "bireal_stage_seconds", ("model", "version", "variant"), CHOSEN, _INFERENCE),
                "{{model}}@{{version}} {{variant}}",
            ),
            unit="s",
            width=6,
        ),
        lines(
            "Answered by another variant",
            "Images that the reference answered because the operator could not run. Anything but nothing needs a look.",
            Query(
                f"sum by (model, requested, ran) ({rate('bireal_fallback_total', CHOSEN)})",
                "{{model}}: {{requested}} asked, {{ran}} ran",
            ),
            unit="ops",
            width=6,
            empty="Every image was answered by the variant asked for",
        ),
    ),
)

_CARDS = Row(
    "Accuracy, from the model cards",
    (
        bars(
            "Shares that are right",
            "Measured on the named data set when the model was exported: top-1 and top-5 of classification, depth "
            "within 1.25 times the truth (delta1).",
            Query(
                f"max by (model, version, variant, dataset, metric) "
                f"({select('bireal_model_accuracy', _SHARES, CHOSEN)})",
                "{{model}}@{{version}} {{variant}}: {{metric}}, {{dataset}}",
            ),
            unit="percentunit",
            width=10,
            empty=_NO_FIGURES,
            limits=(0, 1),
        ),
        table(
            "Every figure of the cards",
            "All figures of the loaded models' cards. Fractions, and metres where the figure is a distance.",
            f"max by ({_VERSION}, dataset, metric) ({select('bireal_model_accuracy', CHOSEN)})",
            unit="none",
            width=9,
            empty=_NO_FIGURES,
            columns=("model", "version", "variant", "dataset", "metric"),
            values=("score",),
            decimals=4,
        ),
        bars(
            "Images behind the figures",
            "Number of images on which each model's figures rest.",
            Query(
                f"max by (model, variant, dataset) ({select('bireal_model_accuracy_images', CHOSEN)})",
                "{{model}} {{variant}}, {{dataset}}",
            ),
            unit="short",
            width=5,
            empty=_NO_FIGURES,
        ),
    ),
)

_SIZE = Row(
    "Size",
    (
        bars(
            "Parameters by precision",
            "Number of parameters of each model: 1-bit ones, and all others.",
            Query(
                f"max by (model, version, precision) ({select('bireal_model_parameters', CHOSEN)})",
                "{{model}}@{{version}} {{precision}}",
            ),
            unit="short",
            width=8,
        ),
        bars(
            "Weights in memory",
            "Bytes of weights as each variant runs them, all precisions together.",
            Query(
                f"sum by (model, version, variant) (max by (model, version, variant, precision) "
                f"({select('bireal_model_weight_bytes', CHOSEN)}))",
                "{{model}}@{{version}} {{variant}}",
            ),
            unit="bytes",
            width=8,
        ),
        bars(
            "Files by version",
            "Size of each version's file.",
            Query(
                f"max by (model, version) ({select('bireal_model_artefact_bytes', CHOSEN)})", "{{model}}@{{version}}"
            ),
            unit="bytes",
            width=8,
        ),
    ),
)

DASHBOARD = Dashboard(
    "models",
    "models",
    "Which versions are served and at what rate, what their cards promise, and how large they are.",
    (_SERVED, _TRAFFIC, _CARDS, _SIZE),
    VARIABLES,
)
