"""The dashboard *Binary vs full*: what the 1-bit network saves and costs against its full-precision twin."""

from __future__ import annotations

from deploy.grafana.panels import NO_MODEL, NO_TRAFFIC, Dashboard, Query, Row, bars, lines, stat
from deploy.grafana.promql import Variable, busy, mean, quantile, rate, select

_TASK = 'task=~"$task"'
_INFERENCE = 'stage="inference"'
_TOTAL = 'stage="total"'
_BINARY = 'variant="binary"'
_FULL = 'variant="full"'
_AGREE = 'agree="true"'
_BOTH_VARIANTS = 'variant=~"binary|full"'
_MAIN_SCORES = 'metric=~"top1|delta1"'

_NO_PAIR = "No data yet: send images to both variants, or one to /compare/classify"


def _mean_time(stage: str, variant: str) -> str:
    return f"({mean('bireal_stage_seconds', ('task',), _TASK, stage, variant)})"


def _times_faster(stage: str) -> str:
    return f"{_mean_time(stage, _FULL)} / {_mean_time(stage, _BINARY)}"


def _an_image(counter: str, variant: str) -> str:
    """Increase of a work counter per image."""
    images = rate("bireal_stage_seconds_count", _TASK, _INFERENCE, variant)
    return f"(sum by (task) ({rate(counter, _TASK, variant)}) / sum by (task) ({images}))"


def _weights(variant: str) -> str:
    """Weight bytes of the task's served networks; each network counts once, however many replicas hold it."""
    return f"sum by (task) (max by (task, model, precision) ({select('bireal_model_weight_bytes', _TASK, variant)}))"


def _card_score(variant: str) -> str:
    return f"max by (task, dataset, metric) ({select('bireal_model_accuracy', _TASK, variant, _MAIN_SCORES)})"


_GLANCE = Row(
    "What the 1-bit network saves and costs",
    (
        stat(
            "Inference, times faster",
            "Mean inference time of the full-precision network divided by that of the 1-bit network of the same task. "
            "Above 1, the 1-bit network is faster. The two means may be over different images.",
            Query(_times_faster(_INFERENCE), "{{task}}"),
            unit="none",
            empty=_NO_PAIR,
            width=5,
            thresholds=(("red", None), ("green", 1)),
            decimals=2,
        ),
        stat(
            "Answer, times faster",
            "The same for the total time of an answer. Decoding and waiting take the same time for both and reduce the "
            "gain.",
            Query(_times_faster(_TOTAL), "{{task}}"),
            unit="none",
            empty=_NO_PAIR,
            width=5,
            thresholds=(("red", None), ("green", 1)),
            decimals=2,
        ),
        stat(
            "Weights, times smaller",
            "Size of the full-precision network's weights in memory divided by that of the 1-bit network.",
            Query(f"{_weights(_FULL)} / {_weights(_BINARY)}", "{{task}}"),
            unit="none",
            empty=NO_MODEL,
            width=5,
            thresholds=(("red", None), ("green", 1)),
            decimals=1,
        ),
        stat(
            "Operations, times fewer",
            "Binary operations per image, full precision divided by 1-bit, counted as in the paper: a real "
            "multiply-accumulate counts as 64.",
            Query(
                f"{_an_image('bireal_work_bops_total', _FULL)} / {_an_image('bireal_work_bops_total', _BINARY)}",
                "{{task}}",
            ),
            unit="none",
            empty=_NO_PAIR,
            width=4,
            thresholds=(("red", None), ("green", 1)),
            decimals=1,
        ),
        stat(
            "Accuracy given up",
            "Score of the full-precision network minus that of the 1-bit network on the same data set, from the "
            "cards: top-1 of classification, delta1 of depth.",
            Query(f"{_card_score(_FULL)} - {_card_score(_BINARY)}", "{{task}} {{metric}}, {{dataset}}"),
            unit="percentunit",
            empty="The cards of the loaded models name no figures",
            width=5,
            thresholds=(("green", None), ("orange", 0.05), ("red", 0.15)),
            decimals=1,
        ),
    ),
    height=5,
)

_TIME = Row(
    "Time",
    (
        lines(
            "Inference, median and 95th percentile",
            "Time of one run of the network, by task and variant.",
            *(
                Query(
                    quantile(share, "bireal_stage_seconds", ("task", "variant"), _TASK, _INFERENCE, _BOTH_VARIANTS),
                    f"{{{{task}}}} {{{{variant}}}} p{round(100 * share)}",
                )
                for share in (0.5, 0.95)
            ),
            unit="s",
            width=8,
        ),
        lines(
            "Times faster, over time",
            "Mean inference time, full precision divided by 1-bit, by task.",
            Query(_times_faster(_INFERENCE), "{{task}}"),
            unit="none",
            width=8,
            empty=_NO_PAIR,
            limits=(0, None),
        ),
        lines(
            "Whole answer, mean",
            "Time from the request's last byte to its answer, including decoding, by task and variant.",
            Query(
                mean("bireal_stage_seconds", ("task", "variant"), _TASK, _TOTAL, _BOTH_VARIANTS), "{{task}} {{variant}}"
            ),
            unit="s",
            width=8,
        ),
    ),
)

_MEMORY = Row(
    "Memory",
    (
        bars(
            "Weights by precision",
            "Size of the weights in memory at run time, by variant: binary weights take 1 bit each, and `reference` "
            "holds the same weights as float32.",
            Query(
                f"max by (model, variant, precision) ({select('bireal_model_weight_bytes', _TASK)})",
                "{{model}} {{variant}} {{precision}}",
            ),
            unit="bytes",
            width=10,
        ),
        bars(
            "Growth of the process by loading",
            "Growth of the process's memory when the variant was loaded and warmed up.",
            Query(f"max by (model, variant) ({select('bireal_model_session_bytes', _TASK)})", "{{model}} {{variant}}"),
            unit="bytes",
            width=7,
        ),
        bars(
            "Files",
            "Size of each model's file.",
            Query(f"max by (model) ({select('bireal_model_artefact_bytes', _TASK)})", "{{model}}"),
            unit="bytes",
            width=7,
        ),
    ),
)

_COMPARED = f"sum by (task, variant_a, variant_b) ({rate('bireal_comparisons_total', _TASK)})"

_AGREEMENT = Row(
    "Agreement and accuracy",
    (
        lines(
            "Variants that agree",
            "Share of compared images on which the two variants gave the same answer: the same best class, or depth "
            "maps that are close.",
            Query(
                f"(sum by (task, variant_a, variant_b) ({rate('bireal_comparisons_total', _AGREE, _TASK)})"
                f" or 0 * {_COMPARED}) / {_COMPARED}",
                "{{task}}: {{variant_a}} and {{variant_b}}",
            ),
            unit="percentunit",
            width=8,
            empty="No comparisons yet: send an image to /compare/classify or /compare/depth",
            limits=(0, 1),
        ),
        lines(
            "Comparisons",
            "Images answered by two variants, per second.",
            Query(_COMPARED, "{{task}}: {{variant_a}} and {{variant_b}}"),
            unit="ops",
            width=8,
            empty="No comparisons yet: send an image to /compare/classify or /compare/depth",
        ),
        bars(
            "Accuracy on the cards' data sets",
            "Measured when the model was exported: top-1 of classification, depth within 1.25 times the truth "
            "(delta1).",
            Query(
                "max by (model, variant, dataset, metric) "
                f"({select('bireal_model_accuracy', _TASK, _BOTH_VARIANTS, _MAIN_SCORES)})",
                "{{model}} {{variant}}: {{metric}}, {{dataset}}",
            ),
            unit="percentunit",
            width=8,
            empty="The cards of the loaded models name no figures",
            limits=(0, 1),
        ),
    ),
)

_WORK = Row(
    "Work",
    (
        lines(
            "Binary operations a second",
            "Operations per second, by task and variant, counted as in the paper: a 1-bit multiply-accumulate counts "
            "as 1, a real one as 64.",
            Query(f"sum by (task, variant) ({rate('bireal_work_bops_total', _TASK)})", "{{task}} {{variant}}"),
            unit="ops",
            width=6,
        ),
        lines(
            "Binary operations while inferring",
            "The same per second of inference, i.e. the kernel's rate; a batch counts once, by the mean batch size.",
            Query(
                f"sum by (model, variant, kernel) ({rate('bireal_work_bops_total', _TASK)})"
                f" / ({busy(('model', 'variant', 'kernel'), _TASK)})",
                "{{model}} {{variant}} ({{kernel}})",
            ),
            unit="ops",
            width=6,
        ),
        lines(
            "Multiply-accumulates",
            "Multiply-accumulates per second, 1-bit and real ones separately.",
            Query(f"sum by (variant) ({rate('bireal_work_binary_macs_total', _TASK)})", "{{variant}}, 1-bit"),
            Query(f"sum by (variant) ({rate('bireal_work_real_macs_total', _TASK)})", "{{variant}}, real"),
            unit="ops",
            width=6,
        ),
        lines(
            "Weights read",
            "Bytes of weights read per second: once per run, whatever its batch size.",
            Query(f"sum by (variant) ({rate('bireal_work_weight_bytes_total', _TASK)})", "{{variant}}"),
            unit="Bps",
            width=6,
            empty=NO_TRAFFIC,
        ),
    ),
)

_EXPERIMENT = 'experiment=~"$experiment"'
_NO_EXPERIMENT = "No experiment runs: BIREAL_EXPERIMENTS_FILE declares them"
_NO_LABELS = "No labels yet: send some to /feedback"
_MORE_RIGHT = "bireal_experiment_labelled_pairs"


def _of_experiment(metric: str, by: str, *matchers: str) -> str:
    """A gauge of experiments; replicas that share a store export the same value."""
    return f"max by ({by}) ({select(metric, _EXPERIMENT, *matchers)})"


def _right(result: str) -> str:
    return _of_experiment(_MORE_RIGHT, "experiment", f'result="{result}"')


_VERDICT = Row(
    "Experiments: the verdict so far",
    (
        stat(
            "Verdict",
            "Whether the arms' accuracies differ, by an e-value of at least 20, which is valid however often it is "
            "checked. Not decided does not mean equal: GET /experiments says how far apart they may be.",
            Query(
                f"({_of_experiment('bireal_experiment_e_value', 'experiment')} >= bool 20)"
                f" * (1 + ({_right('candidate')} > bool {_right('baseline')}))",
                "{{experiment}}",
            ),
            unit="none",
            empty=_NO_LABELS,
            width=6,
            mappings=(
                {
                    "type": "value",
                    "options": {
                        "0": {"text": "Not decided", "color": "text", "index": 0},
                        "1": {"text": "Baseline is right more often", "color": "red", "index": 1},
                        "2": {"text": "Candidate is right more often", "color": "green", "index": 2},
                    },
                },
            ),
        ),
        stat(
            "Evidence of a difference",
            "The e-value on labelled pairs: 1 is no evidence, 20 is significant at 5 % however often it is checked.",
            Query(_of_experiment("bireal_experiment_e_value", "experiment"), "{{experiment}}"),
            unit="none",
            empty=_NO_LABELS,
            width=5,
            thresholds=(("blue", None), ("orange", 20)),
            decimals=1,
        ),
        bars(
            "Candidate's time, of the baseline's",
            "Inference time of the candidate divided by that of the baseline on the same images, geometric mean with "
            "95 % interval. Below 1 the candidate is faster. Not available for experiments in `shadow` mode.",
            Query(_of_experiment("bireal_experiment_latency_ratio", "experiment, bound"), "{{experiment}}: {{bound}}"),
            unit="none",
            width=7,
            empty=_NO_EXPERIMENT,
            limits=(0, None),
        ),
        bars(
            "Who was right",
            "Labelled pairs by which arm was right. Only pairs with exactly one right arm distinguish the arms.",
            Query(_of_experiment(_MORE_RIGHT, "experiment, result"), "{{experiment}}: {{result}}"),
            unit="short",
            width=6,
            empty=_NO_LABELS,
            limits=(0, None),
        ),
    ),
    height=7,
)

_EXPERIMENTS = Row(
    "Experiments: agreement, accuracy, traffic",
    (
        lines(
            "Agreement of the arms",
            "Share of the stored pairs in which both arms gave the same answer, with its exact 95 % interval.",
            Query(_of_experiment("bireal_experiment_agreement", "experiment, bound"), "{{experiment}}: {{bound}}"),
            unit="percentunit",
            width=6,
            empty=_NO_EXPERIMENT,
            limits=(None, 1),
        ),
        lines(
            "Accuracy by feedback, by arm",
            "Score of each arm on images with feedback, with its 95 % interval: top-1, or delta1 for depth.",
            Query(
                _of_experiment("bireal_experiment_accuracy", "experiment, arm, metric, bound", _MAIN_SCORES),
                "{{experiment}} {{arm}} {{metric}}: {{bound}}",
            ),
            unit="percentunit",
            width=6,
            empty=_NO_LABELS,
            limits=(0, 1),
        ),
        lines(
            "Live accuracy, by variant",
            "The same for every variant that answered, inside or outside experiments.",
            Query(
                f"max by (model, variant, metric, bound) ({select('bireal_live_accuracy', _TASK, _MAIN_SCORES)})",
                "{{model}} {{variant}} {{metric}}: {{bound}}",
            ),
            unit="percentunit",
            width=6,
            empty=_NO_LABELS,
            limits=(0, 1),
        ),
        lines(
            "Images by arm",
            "Images answered per second by each arm, and pairs run and mirrored per second.",
            Query(
                f"sum by (experiment, arm) ({rate('bireal_experiment_requests_total', _EXPERIMENT)})",
                "{{experiment}}: {{arm}} answered",
            ),
            Query(
                f"sum by (experiment, agree) ({rate('bireal_experiment_pairs_total', _EXPERIMENT)})",
                "{{experiment}}: pairs, agree {{agree}}",
            ),
            Query(
                f"sum by (experiment, outcome) ({rate('bireal_experiment_shadow_total', _EXPERIMENT)})",
                "{{experiment}}: mirrored, {{outcome}}",
            ),
            unit="ops",
            width=6,
            empty=_NO_EXPERIMENT,
        ),
    ),
)

DASHBOARD = Dashboard(
    "binary-vs-full",
    "binary vs full",
    "What the 1-bit network saves (time, memory, operations) and costs (accuracy) against its full-precision twin.",
    (_GLANCE, _VERDICT, _TIME, _MEMORY, _AGREEMENT, _EXPERIMENTS, _WORK),
    (
        Variable("task", "Task", "bireal_model_ready"),
        Variable("experiment", "Experiment", "bireal_experiment_running"),
    ),
)
