"""The dashboard *Service*: rate, errors and duration by variant, where the time goes, and what is near its limit."""

from __future__ import annotations

from deploy.grafana.panels import NO_SCRAPE, NO_TRAFFIC, Dashboard, Query, Row, heatmap, lines, stat, table
from deploy.grafana.promql import CHOSEN, VARIABLES, busy, mean, quantile, rate, select

_REQUESTS = "bireal_requests_total"
_OK = 'outcome="ok"'
_NOT_OURS = 'outcome=~"ok|client_error"'
_NOT_OK = 'outcome!="ok"'
_TOTAL = 'stage="total"'
_EACH = 'stage!="total"'
_INFERENCE = 'stage="inference"'
_WAITING = 'stage="queue"'
_OURS = 'job="bireal"'  # other scraped programs, including Prometheus itself, export process metrics too

_GLANCE = Row(
    "At a glance",
    (
        stat(
            "Ready",
            "1 if every replica is ready; 0 while one starts, drains or cannot become ready. /readyz says why.",
            Query("min(bireal_ready)"),
            unit="bool_yes_no",
            empty=NO_SCRAPE,
            width=3,
            thresholds=(("red", None), ("green", 1)),
        ),
        stat(
            "Replicas",
            "Number of processes in Prometheus' last scrape.",
            Query("count(bireal_ready)"),
            unit="short",
            empty=NO_SCRAPE,
            width=2,
        ),
        stat(
            "Images answered",
            "Images answered per second, over all variants.",
            Query(f"sum({rate(_REQUESTS, CHOSEN, _OK)})"),
            unit="ops",
            empty=NO_TRAFFIC,
            width=4,
            trend=True,
        ),
        stat(
            "Not answered",
            "Share of images that got no answer, not counting client errors.",
            Query(f"1 - (sum({rate(_REQUESTS, CHOSEN, _NOT_OURS)}) or vector(0)) / sum({rate(_REQUESTS, CHOSEN)})"),
            unit="percentunit",
            empty=NO_TRAFFIC,
            width=4,
            thresholds=(("green", None), ("orange", 0.001), ("red", 0.01)),
        ),
        stat(
            "Median time of an answer",
            "Median time from the request's last byte to its answer, including decoding, by variant.",
            Query(quantile(0.5, "bireal_stage_seconds", ("variant",), CHOSEN, _TOTAL), "{{variant}}"),
            unit="s",
            empty=NO_TRAFFIC,
            width=6,
        ),
        table(
            "Kernel and versions",
            "The kernel in use, the kernels that this CPU can run, and versions.",
            "max by (instance, kernel, kernels, onnxruntime, version) (bireal_build_info)",
            unit="none",
            empty=NO_SCRAPE,
            width=5,
            columns=("kernel", "kernels", "onnxruntime", "version"),
        ),
    ),
    height=4,
)

_RED = Row(
    "Rate, errors, duration, by variant",
    (
        lines(
            "Rate",
            "Images per second by task and variant, whatever their outcome.",
            Query(f"sum by (task, variant) ({rate(_REQUESTS, CHOSEN)})", "{{task}} {{variant}}"),
            unit="ops",
            width=8,
            stacked=True,
        ),
        lines(
            "Errors",
            "Images per second that got no answer, by variant and outcome: server_error, rejected (queue full), "
            "expired (deadline), cancelled (client gone), client_error.",
            Query(
                f"sum by (variant, outcome) ({rate(_REQUESTS, CHOSEN, _NOT_OK)})",
                "{{variant}} {{outcome}}",
            ),
            unit="ops",
            width=8,
            empty="Every image was answered",
            stacked=True,
        ),
        lines(
            "Duration, 50th, 95th and 99th percentile",
            "Time from the request's last byte to its answer, including decoding, by variant.",
            *(
                Query(
                    quantile(share, "bireal_stage_seconds", ("variant",), CHOSEN, _TOTAL),
                    f"{{{{variant}}}} p{round(100 * share)}",
                )
                for share in (0.5, 0.95, 0.99)
            ),
            unit="s",
            width=8,
        ),
    ),
)

_STAGES = Row(
    "Where the time goes",
    (
        lines(
            "Mean time by stage",
            "Mean time of each stage of an image, stacked. Decoding often takes as long as the 1-bit network.",
            Query(mean("bireal_stage_seconds", ("stage",), CHOSEN, _EACH), "{{stage}}"),
            unit="s",
            width=8,
            stacked=True,
        ),
        lines(
            "Inference, 95th percentile",
            "Time of one run, by model, variant and kernel.",
            Query(
                quantile(0.95, "bireal_stage_seconds", ("model", "variant", "kernel"), CHOSEN, _INFERENCE),
                "{{model}} {{variant}} ({{kernel}})",
            ),
            unit="s",
            width=8,
        ),
        heatmap(
            "Inference, all of it",
            "Distribution of the time of one run. Two bands mean two variants, or a busy neighbour.",
            f"sum by (le) ({rate('bireal_stage_seconds_bucket', CHOSEN, _INFERENCE)})",
            unit="s",
            width=8,
        ),
    ),
)

_QUEUE = Row(
    "Queue",
    (
        lines(
            "Queue and requests in flight",
            "Images waiting for a worker, what waits for a decoding thread, and requests in flight, over all replicas; "
            "and the limit of what waits for one variant of a model, or for one task's decoding, above which images "
            "are refused.",
            Query("sum(bireal_queue_depth)", "waiting"),
            Query("sum(bireal_decode_queue_depth)", "waiting for decoding"),
            Query("sum(bireal_in_flight)", "in flight"),
            Query("sum(bireal_queue_limit)", "may wait"),
            unit="short",
            width=6,
            empty=NO_SCRAPE,
        ),
        lines(
            "Time in the queue, 95th percentile",
            "How long images waited for a decoding thread or a worker, by task.",
            Query(quantile(0.95, "bireal_stage_seconds", ("task",), CHOSEN, _WAITING), "{{task}}"),
            unit="s",
            width=6,
        ),
        lines(
            "Dropped",
            "Images per second that got no answer: a queue was full, the deadline passed, or the client disconnected.",
            Query(f"sum({rate('bireal_rejected_total', CHOSEN)})", "rejected"),
            Query(f"sum({rate('bireal_expired_total', CHOSEN)})", "expired"),
            Query(f"sum({rate('bireal_cancelled_total', CHOSEN)})", "cancelled"),
            unit="ops",
            width=6,
            empty="Nothing was dropped",
        ),
        lines(
            "Mean batch size",
            "Images per run, by variant. 1 means that none were waiting, or that batching is off (BIREAL_MAX_BATCH).",
            Query(mean("bireal_batch_size", ("variant",), CHOSEN), "{{variant}}"),
            unit="none",
            width=6,
        ),
    ),
)

_SATURATION = Row(
    "Saturation",
    (
        lines(
            "CPU",
            "Cores used by each process. A process that uses all its cores is saturated: more load only waits longer.",
            Query(f"sum by (instance) ({rate('process_cpu_seconds_total', _OURS)})", "{{instance}}"),
            unit="none",
            width=6,
            empty=NO_SCRAPE,
        ),
        lines(
            "Networks running at a time",
            "Seconds of inference per second, by variant, i.e. the mean number of busy workers. Near the number of "
            "workers of all replicas, every image waits. The time of a batch counts once, by the mean batch size.",
            Query(busy(("variant",), CHOSEN), "{{variant}}"),
            Query("sum(bireal_workers)", "workers"),
            unit="none",
            width=6,
            limits=(0, None),
        ),
        lines(
            "Memory of the process",
            "Resident memory of each process, its peak, and the container's limit if there is one.",
            Query("bireal_process_resident_memory_bytes", "resident {{instance}}"),
            Query("bireal_process_peak_memory_bytes", "peak {{instance}}"),
            Query("bireal_memory_limit_bytes", "limit {{instance}}"),
            unit="bytes",
            width=6,
            empty=NO_SCRAPE,
        ),
        lines(
            "Open files",
            "File descriptors in use, mostly connections, as a share of each process's limit.",
            Query(
                f"max by (instance) ({select('process_open_fds', _OURS)} / {select('process_max_fds', _OURS)})",
                "{{instance}}",
            ),
            unit="percentunit",
            width=6,
            empty=NO_SCRAPE,
            limits=(0, None),
        ),
    ),
)

_HTTP = Row(
    "HTTP",
    (
        lines(
            "HTTP requests by status",
            "Requests per second, by route and status.",
            Query(f"sum by (route, status) ({rate('bireal_http_requests_total')})", "{{route}} {{status}}"),
            unit="reqps",
            width=6,
            empty=NO_SCRAPE,
        ),
        lines(
            "HTTP duration, 95th percentile",
            "Time from the start of the request to the end of its response, by route, including slow clients.",
            Query(quantile(0.95, "bireal_http_request_seconds", ("route",)), "{{route}}"),
            unit="s",
            width=6,
            empty=NO_SCRAPE,
        ),
        lines(
            "Problems by code",
            "Error responses, by the code of the problem document.",
            Query(f"sum by (code) ({rate('bireal_problems_total')})", "{{code}}"),
            unit="ops",
            width=6,
            empty="No errors were answered",
        ),
        lines(
            "Images by format",
            "Images decoded per second, by format; converted images were not 8-bit RGB.",
            Query(
                f"sum by (format, converted) ({rate('bireal_images_total')})", "{{format}}, converted: {{converted}}"
            ),
            unit="ops",
            width=6,
        ),
    ),
)

DASHBOARD = Dashboard(
    "service",
    "service",
    "Rate, errors and duration by variant; where the time goes; the queue; what is near its limit.",
    (_GLANCE, _RED, _STAGES, _QUEUE, _SATURATION, _HTTP),
    VARIABLES,
)
