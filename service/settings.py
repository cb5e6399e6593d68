"""The one frozen, validated `Settings`, and the only reader of the environment.

The fields of `Settings` are the one list of settings: environment variables, command-line options, docs/settings.md
and the test that all of them are documented are derived from it.
"""

import argparse
import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.errors import SettingsError
from service.host import usable_cpus
from service.keys import key_problem

ENV_PREFIX = "BIREAL_"

#: The models that come with the source tree, beside the `service` package.
SHIPPED_MODELS = Path(__file__).resolve().parent.parent / "models" / "zoo"

# How defaults that are computed on the machine are shown to people.
_SHOWN_DEFAULTS = {
    "model_dir": "models/zoo beside the service package",
    "decode_threads": "usable CPUs",
    "intra_op_threads": "usable CPUs",
    "workers": "usable CPUs / intra_op_threads",
}

# Set by a variable only: the options of a process are shown to everybody on the machine.
_SECRET = ("api_keys", "admin_keys", "feedback_secrets")

_ONE_ORIGIN_EACH = "give origins as https://host or https://host:port, separated by commas, or * for all"


def _default_workers(fields: dict[str, Any]) -> int:
    """As many runs at a time as fill the CPUs: threads beyond them only take turns."""
    return max(1, usable_cpus() // int(fields.get("intra_op_threads", 1)))


class Settings(BaseSettings):
    """Everything about the service that can be set. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(frozen=True, env_prefix=ENV_PREFIX, extra="forbid", protected_namespaces=())

    host: str = Field(
        "127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 for all, as a container needs."
    )
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    model_dir: Path = Field(
        SHIPPED_MODELS, description="Folder of models: NAME/VERSION/ with card.yaml and model.onnx each."
    )
    model_poll_s: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="How often the folder of models is looked through for new versions and changed labels, seconds; 0 "
        "for never.",
    )
    default_classify_model: str = Field(
        "bireal18-tiny100", min_length=1, description="Model of /classify when the request names none."
    )
    default_depth_model: str = Field(
        "bireal50-kitti-depth", min_length=1, description="Model of /depth when the request names none."
    )
    default_variant: Literal["binary", "reference", "full"] = Field(
        "binary", description="Variant when the request names none. A full-precision model always runs as `full`."
    )
    fallback: Literal["none", "reference"] = Field(
        "none",
        description="When the bit-packed operator cannot load: `none` keeps the service not ready, `reference` answers "
        "with the float network of the same weights and says so in each answer and in a metric.",
    )
    kernel: str = Field(
        "auto",
        min_length=1,
        description="Kernel of the operator: `auto` takes the best for this CPU; `bireal-serve models` and /metrics "
        "name the one that runs. A name that this CPU cannot run is an error.",
    )
    max_body_bytes: int = Field(
        20_000_000, gt=0, description="Largest body of one request, counted while it arrives; beyond it, 413."
    )
    max_pixels: int = Field(
        50_000_000,
        gt=0,
        le=178_000_000,  # beyond it Pillow refuses some formats by a limit of its own
        description="Largest image, width x height, read from its header before it is decoded; beyond it, 413. "
        "An image being decoded takes 4 to 13 bytes a pixel in each of decode_threads.",
    )
    max_images_per_request: int = Field(16, gt=0, description="Most images in one multipart request; beyond it, 413.")
    decode_threads: int = Field(
        default_factory=usable_cpus, gt=0, description="Threads that decode and prepare images, off the event loop."
    )
    intra_op_threads: int = Field(
        default_factory=usable_cpus,
        gt=0,
        description="Threads within one run of a network. 1, with more workers, gives the most throughput; all CPUs "
        "and one worker the least latency of a lone request.",
    )
    workers: int = Field(default_factory=_default_workers, gt=0, description="Networks that run at the same time.")
    queue_size: int = Field(64, gt=0, description="Images that may wait for a worker; beyond it, 429 with Retry-After.")
    max_batch: int = Field(
        1,
        gt=0,
        description="Most images that are run together when they wait already; nothing ever waits for a batch to fill.",
    )
    default_timeout_s: float = Field(
        30.0, gt=0, allow_inf_nan=False, description="Time that a request has when it does not say; then 504. Seconds."
    )
    drain_s: float = Field(
        5.0,
        ge=0,
        allow_inf_nan=False,
        description="After SIGTERM: seconds in which requests are still taken while /readyz says 503, so that a load "
        "balancer notices; then those in flight are finished.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose web pages may call the service, separated by commas; * for all, none by default."
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Keys that clients must send to have pictures answered, separated by commas; without any, "
        "everybody may ask. At least 16 characters each; several, so that they can be changed one after the other.",
    )
    api_keys_file: Path | None = Field(
        None,
        description="File with the keys of clients, one a line, read at start; those of `BIREAL_API_KEYS` count too.",
    )
    admin_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Keys for administration, separated by commas: /admin and /v2/repository. Without any, nobody can "
        "change the service over HTTP.",
    )
    admin_keys_file: Path | None = Field(
        None,
        description="File with the keys for administration, one a line, read at start; those of `BIREAL_ADMIN_KEYS` "
        "count too.",
    )
    experiments_file: Path | None = Field(
        None, description="File that declares experiments, YAML or JSON; read at start. None without it."
    )
    feedback_store: Path | None = Field(
        None,
        description="SQLite file of feedback and observations, on a volume that can be written; made where it is "
        "missing. Without it they are kept in memory and lost with the process. Images are never in it.",
    )
    feedback_secrets: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="What feedback tokens are signed with, separated by commas; all replicas need the same. The first "
        "signs, all are accepted. At least 16 characters each; without any, a random one of the process.",
    )
    feedback_secrets_file: Path | None = Field(
        None,
        description="File with the secrets that sign feedback tokens, one a line; those of `BIREAL_FEEDBACK_SECRETS` "
        "come first.",
    )
    feedback_days: float = Field(
        90.0,
        gt=0,
        allow_inf_nan=False,
        description="Days that feedback is kept, and tokens are accepted.",
    )
    feedback_rows: int = Field(
        200_000,
        gt=0,
        description="Most feedback that is kept, and most observations; the oldest go first.",
    )
    parity_sample: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the answers of `binary` that are computed again on `reference` when workers are idle, "
        "and compared; 0 turns the parity monitor off, and it takes no memory then.",
    )
    parity_layer_sample: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of these on which every layer is compared, in graphs loaded for the first check and kept: "
        "0.03 s of a CPU and 0.16 GB for Bi-Real-18, 5 s and 0.7 GB for Bi-Real-50 on 160 x 608; at most every "
        "`BIREAL_PARITY_PROBE_S`.",
    )
    parity_probe_s: float = Field(
        60.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds, at least, between runs of fixed images whose outputs must not change by a bit, and "
        "between checks of a model's layers.",
    )
    background_queue: int = Field(
        8, gt=0, description="Mirrored images and parity checks that may wait for idle workers; beyond it, dropped."
    )
    top_k: int = Field(5, gt=0, description="Classes in an answer when the request does not say.")
    min_probability: float = Field(
        0.0, ge=0, le=1, description="Best probability below which an answer is marked uncertain; 0..1."
    )
    otlp_endpoint: str | None = Field(
        None,
        description="Collector of OpenTelemetry traces, by OTLP over HTTP, such as http://collector:4318. Without it "
        "there are none, and nothing of OpenTelemetry is loaded; with it the extra `otel` must be installed.",
    )
    trace_sample: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the requests that are traced; those that bring a `traceparent` follow its flag instead.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["text", "json"] = Field("text", description="A log record as a line of text or of JSON.")

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
            raise ValueError("give the collector as http://host:4318 or https://host")
        return endpoint

    @field_validator("api_keys", "admin_keys", "feedback_secrets")
    @classmethod
    def _check_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, key in enumerate(keys, 1):
            if problem := key_problem(key.get_secret_value()):
                raise ValueError(f"key {number} {problem}")
        return keys


class SettingDoc(NamedTuple):
    """One setting as users meet it."""

    name: str
    variable: str
    option: str
    type: str
    default: str
    description: str


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Makes the settings from defaults, the environment, and overrides (which win).

    Args:
        overrides: Values by field name, such as those given on the command line; None values are not set.

    Returns:
        The settings.

    Raises:
        SettingsError: A value is not valid; the message names the variable and what is accepted.
    """
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        findings = []
        for item in error.errors(include_url=False, include_context=False):
            if item["type"] == "default_factory_not_called":  # follows from another finding, says nothing itself
                continue
            name = str(item["loc"][0]) if item["loc"] else "settings"
            source = _option(name) if name in given else _variable(name)
            message = item["msg"].removeprefix("Value error, ")
            shown = "..." if name in _SECRET else repr(item["input"])
            findings.append(f"{source}={shown}: {message}.")
        raise SettingsError(" ".join(findings)) from None  # its own text would tell every value, keys among them


def add_arguments(parser: argparse.ArgumentParser, names: Sequence[str] | None = None) -> None:
    """Adds an option `--field-name` for each setting (or those named), unset (None) unless given.

    `load_settings(settings_overrides(namespace))` turns the parsed options into settings. Values stay text here:
    `Settings` checks them, with the same messages for options and variables.
    """
    group = parser.add_argument_group("settings", "Each can also be set by the variable in brackets.")
    for doc in documentation():
        if doc.name not in _SECRET and (names is None or doc.name in names):
            text = f"{doc.description} Default: {doc.default}. [{doc.variable}]"
            group.add_argument(doc.option, dest=doc.name, metavar=doc.type, help=text.replace("%", "%%"))


def settings_overrides(namespace: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given on the command line, for `load_settings`."""
    values = vars(namespace)
    return {name: values[name] for name in Settings.model_fields if values.get(name) is not None}


def export_kernel(settings: Settings) -> None:
    """Hands `kernel` to the operator, which reads BIREAL_KERNEL when its library is loaded: call it before that."""
    if settings.kernel == "auto":
        os.environ.pop(_variable("kernel"), None)
    else:
        os.environ[_variable("kernel")] = settings.kernel


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """One sentence for each `BIREAL_` variable that is no setting, with the nearest name: to be logged at start.

    They are no error: Kubernetes gives every pod variables such as BIREAL_SERVICE_HOST when a Service is called
    `bireal`.
    """
    known = [_variable(name) for name in Settings.model_fields]
    sentences = []
    for variable in sorted(environ):
        if variable.upper().startswith(ENV_PREFIX) and variable.upper() not in known:
            near = difflib.get_close_matches(variable.upper(), known, n=1)
            hint = f"did you mean {near[0]}?" if near else "docs/settings.md lists every setting."
            sentences.append(f"The variable {variable} is no setting and has no effect: {hint}")
    return sentences


def documentation() -> list[SettingDoc]:
    """Every setting in order, as shown in docs/settings.md and in --help."""
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
