"""The dashboard *Models*: which versions are served, what their cards promise, and whether they still compute it."""

from __future__ import annotations

from deploy.grafana.panels import NO_MODEL, Dashboard, Query, Row, bars, heatmap, lines, stat, table
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
            "Variants of models that are loaded, warmed up and answering, over all replicas.",
            Query(f"sum({select('bireal_model_ready', CHOSEN)})"),
            unit="short",
            empty=NO_MODEL,
            width=3,
        ),
        stat(
            "Variants that cannot run",
            "Variants that failed to load or run: /models says why.",
            Query(f"sum(1 - {select('bireal_model_ready', CHOSEN)})"),
            unit="short",
            empty=NO_MODEL,
            width=3,
            thresholds=(("green", None), ("red", 1)),
        ),
        table(
            "Versions",
            "Each variant of each version with its kernel, whether it is ready on all replicas, and the longest time "
            "for loading and warming it up.",
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
            "Images per second by version, answered or not: shows rollouts.",
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
            "Images per second that got no answer, by version: compare the new with the old version during a rollout.",
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
            "Images answered by the reference because the operator could not run. Should be zero.",
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
            "All metrics on the loaded models' cards, as fractions, or in metres for distances.",
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
            "Number of images that each model's metrics were measured on.",
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
            "Number of parameters of each model, 1-bit and others.",
            Query(
                f"max by (model, version, precision) ({select('bireal_model_parameters', CHOSEN)})",
                "{{model}}@{{version}} {{precision}}",
            ),
            unit="short",
            width=8,
        ),
        bars(
            "Weights in memory",
            "Size of the weights at run time, by variant, all precisions together.",
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

_NOT_WATCHED = "The parity monitor is off: BIREAL_PARITY_SAMPLE sets its share of the traffic"
_AGREE = 'agree="true"'
_CHANGED = 'same="false"'
_CHECKED_AGAIN = f"sum by (model) ({rate('bireal_parity_agreement_total', CHOSEN)})"

_PARITY = Row(
    "Parity: whether binary still computes what the reference does",
    (
        stat(
            "Intact",
            "1 while no exact check of a model has found a corruption: equal integers in every layer, and an unchanged "
            "output for a fixed image. 0 means a damaged file, memory or CPU: take the replica out of service.",
            Query(f"min by (model) ({select('bireal_parity_ok', CHOSEN)})", "{{model}}"),
            unit="bool_yes_no",
            empty=_NOT_WATCHED,
            width=4,
            thresholds=(("red", None), ("green", 1)),
        ),
        lines(
            "Same answer as the reference",
            "Share of re-run images on which both gave the same best class, or similar depth maps. Rounding can flip "
            "the sign of values near zero, so it may be slightly below 1.",
            Query(
                f"(sum by (model) ({rate('bireal_parity_agreement_total', _AGREE, CHOSEN)}) or 0 * {_CHECKED_AGAIN})"
                f" / {_CHECKED_AGAIN}",
                "{{model}}",
            ),
            unit="percentunit",
            width=5,
            empty=_NOT_WATCHED,
            limits=(None, 1),
        ),
        heatmap(
            "Difference of the outputs",
            "Largest difference of a logit or pixel, relative to the range of the reference's output. Low values are "
            "rounding errors; high values mean that the outputs are unrelated.",
            f"sum by (le) ({rate('bireal_parity_difference_bucket', CHOSEN)})",
            unit="percentunit",
            width=5,
            empty=_NOT_WATCHED,
        ),
        bars(
            "Layers whose signs agree least",
            "Share of a layer's integer sums with the same sign as in the reference, in its last check; the ten lowest "
            "layers. It decreases with depth, because flipped signs propagate.",
            Query(
                f"bottomk(10, min by (model, layer) ({select('bireal_parity_layer_sign_agreement', CHOSEN)}))",
                "{{model}} {{layer}}",
            ),
            unit="percentunit",
            width=5,
            empty=_NOT_WATCHED,
            limits=(0, 1),
        ),
        lines(
            "Checks, and what they found",
            "Images re-run and layers checked per second. Layers whose integers differ and fixed images whose output "
            "changed must stay at zero.",
            Query(f"sum by (outcome) ({rate('bireal_parity_images_total', CHOSEN)})", "images, {{outcome}}"),
            Query(f"sum by (model) ({rate('bireal_parity_layer_checks_total', CHOSEN)})", "{{model}}: layers"),
            Query(
                f"sum by (model) ({rate('bireal_parity_layer_mismatches_total', CHOSEN)})", "{{model}}: layers differ"
            ),
            Query(
                f"sum by (model) ({rate('bireal_parity_probes_total', _CHANGED, CHOSEN)})"
                f" or 0 * sum by (model) ({rate('bireal_parity_probes_total', CHOSEN)})",
                "{{model}}: fixed image changed",
            ),
            unit="ops",
            width=5,
            empty=_NOT_WATCHED,
        ),
    ),
)

DASHBOARD = Dashboard(
    "models",
    "models",
    "Which versions are served and at what rate, what their cards promise, and whether they still compute it.",
    (_SERVED, _PARITY, _TRAFFIC, _CARDS, _SIZE),
    VARIABLES,
)
