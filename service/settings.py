"""The frozen, validated `Settings`, and the only code that reads the environment.

The fields of `Settings` are the single list of settings. The environment variables, the command-line options,
docs/settings.md and the test that every setting is documented are derived from it.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.build import REVISION_VARIABLE
from service.card import VariantName
from service.errors import SettingsError, nearest
from service.host import usable_cpus
from service.keys import key_problem

ENV_PREFIX = "BIREAL_"

#: The models in the source tree, next to the `service` package.
SHIPPED_MODELS = Path(__file__).resolve().parent.parent / "models" / "zoo"

# How the documentation shows defaults that depend on the machine.
_SHOWN_DEFAULTS = {
    "model_dir": "models/zoo next to the service package",
    "decode_threads": "usable CPUs",
    "intra_op_threads": "usable CPUs",
    "workers": "usable CPUs / intra_op_threads",
}

# Only environment variables can set these: everybody on the machine can see the options of a process.
_SECRET = ("api_keys", "admin_keys", "feedback_secrets")

_ONE_ORIGIN_EACH = "give origins as https://host or https://host:port, separated by commas, or * for all"


def _default_workers(fields: dict[str, Any]) -> int:
    """The number of concurrent runs that fills the CPUs; more threads would only take turns."""
    return max(1, usable_cpus() // int(fields.get("intra_op_threads", 1)))


class Settings(BaseSettings):
    """All settings of the service. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(frozen=True, env_prefix=ENV_PREFIX, extra="forbid", protected_namespaces=())

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address to listen on; 0.0.0.0 for all interfaces, as in a container, or :: for IPv6 as well.",
    )
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 picks a free port.")
    model_dir: Path = Field(
        SHIPPED_MODELS, description="Folder of models, each in NAME/VERSION/ with card.yaml and model.onnx."
    )
    model_poll_s: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Interval at which the model folder is checked for new versions and changed labels, seconds; 0 "
        "turns the check off.",
    )
    default_classify_model: str = Field(
        "bireal18-tiny100", min_length=1, description="Model that /classify uses when the request names none."
    )
    default_depth_model: str = Field(
        "bireal50-kitti-depth", min_length=1, description="Model that /depth uses when the request names none."
    )
    default_variant: VariantName = Field(
        "binary",
        description="Variant to run when the request names none. A full-precision model always runs as `full`.",
    )
    fallback: Literal["none", "reference"] = Field(
        "none",
        description="What to do when the bit-packed operator cannot load. `none`: the service does not become ready. "
        "`reference`: the float network with the same weights answers; each answer and a metric say so.",
    )
    kernel: str = Field(
        "auto",
        min_length=1,
        description="Kernel of the operator. `auto` picks the best one for this CPU; `bireal-serve models` and "
        "/metrics name it. A kernel that this CPU cannot run is an error.",
    )
    max_body_bytes: int = Field(
        20_000_000, gt=0, description="Largest body of a request, counted while it arrives; a larger one gets 413."
    )
    max_pixels: int = Field(
        50_000_000,
        gt=0,
        le=178_000_000,  # above this, Pillow's own limit refuses some formats
        description="Largest image, width x height, read from its header before decoding; a larger one gets 413. "
        "Decoding takes 4 to 13 bytes per pixel in each of the decode_threads.",
    )
    max_images_per_request: int = Field(16, gt=0, description="Most images in one multipart request; more get 413.")
    decode_threads: int = Field(
        default_factory=usable_cpus, gt=0, description="Threads that decode and preprocess images."
    )
    intra_op_threads: int = Field(
        default_factory=usable_cpus,
        gt=0,
        description="Threads within one run of a network. 1 with more workers gives the highest throughput; all CPUs "
        "with one worker give the lowest latency of a single request.",
    )
    workers: int = Field(default_factory=_default_workers, gt=0, description="Networks that run at the same time.")
    queue_size: int = Field(
        64,
        gt=0,
        description="Images that may wait for one variant of one model, and calls of one task that may wait for a "
        "decoding thread; beyond that, 429 with Retry-After.",
    )
    max_batch: int = Field(
        1,
        gt=0,
        description="Most images in one batch. Only images that are already waiting are batched; no image ever waits "
        "for a batch to fill.",
    )
    default_timeout_s: float = Field(
        30.0,
        gt=0,
        le=1e9,  # the shutdown waits this long for threads; Python refuses waits above 9.2e9 s
        allow_inf_nan=False,
        description="Timeout of a request that sets none, seconds; it gets 504 when the time is up.",
    )
    drain_s: float = Field(
        5.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds after SIGTERM during which requests are still accepted while /readyz returns 503, so that "
        "a load balancer notices. Then the requests in flight are finished.",
    )
    keep_alive_s: int = Field(
        75,
        gt=0,
        description="Seconds after an answer for which a connection is kept open for the next request. More than the "
        "idle timeout of the proxy in front (often 60), or requests meet a closing connection, and clients see 502.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose web pages may call the service, separated by commas; * for all."
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="API keys of clients, separated by commas, at least 16 characters each. With none, the service is "
        "open to everybody. Several keys are possible, so that a new one can be introduced before the old one goes.",
    )
    api_keys_file: Path | None = Field(
        None,
        description="File with API keys of clients, one per line, read at startup, in addition to `BIREAL_API_KEYS`.",
    )
    admin_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Keys for administration (/admin and /v2/repository), separated by commas. With none, nobody can "
        "change the service over HTTP.",
    )
    admin_keys_file: Path | None = Field(
        None,
        description="File with keys for administration, one per line, read at startup, in addition to "
        "`BIREAL_ADMIN_KEYS`.",
    )
    experiments_file: Path | None = Field(
        None, description="YAML or JSON file that declares experiments, read at startup."
    )
    feedback_store: Path | None = Field(
        None,
        description="SQLite file for feedback and observations, on a writable volume; created if it does not exist. "
        "Without it, they are kept in memory and lost when the process ends. It never contains images.",
    )
    feedback_secrets: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Secrets that sign feedback tokens, separated by commas, at least 16 characters each. The first "
        "one signs, all are accepted. All replicas need the same ones. With none, each process uses a random one.",
    )
    feedback_secrets_file: Path | None = Field(
        None,
        description="File with secrets that sign feedback tokens, one per line; those in `BIREAL_FEEDBACK_SECRETS` "
        "come first.",
    )
    feedback_days: float = Field(
        90.0, gt=0, allow_inf_nan=False, description="Days for which feedback is kept and its tokens are accepted."
    )
    feedback_rows: int = Field(
        200_000, gt=0, description="Most rows of feedback, and of observations, to keep; the oldest are removed first."
    )
    parity_sample: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of `binary` answers that the parity monitor recomputes on `reference` while workers are "
        "idle, and compares. 0 turns the monitor off; it then uses no memory.",
    )
    parity_layer_sample: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of these answers whose layers are compared one by one, at most once per "
        "`BIREAL_PARITY_PROBE_S`. The graphs for it are loaded at the first check and kept. A check takes 0.03 s of a "
        "CPU and 0.2 GB for Bi-Real-18 at 128 x 128; 5 s and 0.7 GB for Bi-Real-50 at 160 x 608, 0.5 GB at half the "
        "width.",
    )
    parity_probe_s: float = Field(
        60.0,
        ge=0,
        allow_inf_nan=False,
        description="Least time between runs of fixed images, whose outputs must stay identical to the bit, and "
        "between checks of a model's layers, seconds.",
    )
    background_queue: int = Field(
        8, gt=0, description="Mirrored images and parity checks that may wait for idle workers; more are dropped."
    )
    top_k: int = Field(5, gt=0, le=1000, description="Number of classes in an answer when the request does not set it.")
    min_probability: float = Field(
        0.0, ge=0, le=1, description="An answer whose best probability is below this is marked uncertain; 0..1."
    )
    otlp_endpoint: str | None = Field(
        None,
        description="OpenTelemetry collector that receives traces by OTLP over HTTP, such as http://collector:4318; "
        "requires the extra `otel`. Without it, nothing is traced and OpenTelemetry is not loaded.",
    )
    trace_sample: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of requests that are traced. For requests with a `traceparent`, its flag decides instead.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged.")
    log_format: Literal["text", "json"] = Field("text", description="Format of the log: lines of text or of JSON.")

    @field_validator("cors_origins", "api_keys", "admin_keys", "feedback_secrets", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            scheme, separator, rest = origin.partition("://")
            if origin != "*" and (scheme not in {"http", "https"} or not separator or not rest or "/" in rest):
                raise ValueError(f"{origin!r} is not an origin: {_ONE_ORIGIN_EACH}")
        return origins

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_endpoint(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and (
            urlsplit(endpoint).scheme not in {"http", "https"} or not urlsplit(endpoint).hostname
        ):
            raise ValueError("give the collector's address as http://host:4318 or https://host")
        return endpoint

    @field_validator("api_keys", "admin_keys", "feedback_secrets")
    @classmethod
    def _check_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, key in enumerate(keys, 1):
            if problem := key_problem(key.get_secret_value()):
                raise ValueError(f"key {number} {problem}")
        return keys


class SettingDoc(NamedTuple):
    """One setting as documentation and help show it."""

    name: str
    variable: str
    option: str
    type: str
    default: str
    description: str


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Builds the settings; overrides win over the environment, and the environment wins over the defaults.

    Args:
        overrides: Values by field name, such as those from the command line. None means not set.

    Returns:
        The settings.

    Raises:
        SettingsError: A value is not valid. The message names the variable and what is accepted.
    """
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        findings = []
        for item in error.errors(include_url=False, include_context=False):
            if item["type"] == "default_factory_not_called":  # only a consequence of another finding
                continue
            name = str(item["loc"][0]) if item["loc"] else "settings"
            source = _option(name) if name in given else _variable(name)
            message = item["msg"].removeprefix("Value error, ")
            shown = "..." if name in _SECRET else repr(item["input"])
            findings.append(f"{source}={shown}: {message}.")
        raise SettingsError(" ".join(findings)) from None  # pydantic's text would reveal all values, including keys


def add_arguments(parser: argparse.ArgumentParser, names: Sequence[str] | None = None) -> None:
    """Adds an option `--field-name` for each setting, or for those in `names`; the default is None.

    `load_settings(settings_overrides(namespace))` turns the parsed options into settings. Values stay text here, so
    that `Settings` validates options and variables with the same messages.
    """
    group = parser.add_argument_group("settings", "Each can also be set by the environment variable in brackets.")
    for doc in documentation():
        if doc.name not in _SECRET and (names is None or doc.name in names):
            text = f"{doc.description} Default: {doc.default}. [{doc.variable}]"
            group.add_argument(doc.option, dest=doc.name, metavar=doc.type, help=text.replace("%", "%%"))


def settings_overrides(namespace: argparse.Namespace) -> dict[str, Any]:
    """The settings from the command line, for `load_settings`."""
    values = vars(namespace)
    return {name: values[name] for name in Settings.model_fields if values.get(name) is not None}


def export_kernel(settings: Settings) -> None:
    """Passes `kernel` to the operator, which reads BIREAL_KERNEL when its library is loaded: call this first."""
    if settings.kernel == "auto":
        os.environ.pop(_variable("kernel"), None)
    else:
        os.environ[_variable("kernel")] = settings.kernel


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """One warning for each `BIREAL_` variable that is not a setting, with the most similar name, for the log.

    They are not an error, because Kubernetes sets variables such as BIREAL_SERVICE_HOST in every pod if a Service is
    called `bireal`.
    """
    known = [_variable(name) for name in Settings.model_fields]
    sentences = []
    for variable in sorted(environ.keys() - {REVISION_VARIABLE}):
        if variable.upper().startswith(ENV_PREFIX) and variable.upper() not in known:
            near = nearest(variable, known)
            hint = f"did you mean {near}?" if near else "docs/settings.md lists every setting."
            sentences.append(f"The variable {variable} is not a setting and has no effect: {hint}")
    return sentences


def documentation() -> list[SettingDoc]:
    """Every setting, in the order of docs/settings.md and --help."""
    docs = []
    for name, field in Settings.model_fields.items():
        shown = _SHOWN_DEFAULTS.get(name) or _shown(field.get_default(call_default_factory=False))
        kind = _type_name(field.annotation)
        docs.append(SettingDoc(name, _variable(name), _option(name), kind, shown, field.description or ""))
    return docs


def markdown_table() -> str:
    """The table of docs/settings.md: `python -c "import service.settings as s; print(s.markdown_table())"`."""
    lines = ["| variable | option | type | default | meaning |", "|---|---|---|---|---|"]
    for doc in documentation():
        kind = doc.type.replace("|", "\\|")
        option = "(none: a secret)" if doc.name in _SECRET else f"`{doc.option}`"
        lines.append(f"| `{doc.variable}` | {option} | {kind} | {doc.default} | {doc.description} |")
    return "\n".join(lines)


def _variable(name: str) -> str:
    return (ENV_PREFIX + name).upper()


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _shown(default: object) -> str:
    return str(default) if default not in ((), None) else "none"


def _type_name(annotation: object) -> str:
    if get_origin(annotation) is Literal:
        return "|".join(str(choice) for choice in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "list"
    names: dict[object, str] = {str: "text", int: "integer", float: "number", Path: "path"}
    names |= {str | None: "text", Path | None: "path"}
    return names[annotation]
