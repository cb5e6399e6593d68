"""The one frozen, validated `Settings`, and the only reader of the environment.

The fields of `Settings` are the one list of settings: environment variables, command-line options, docs/settings.md
and the test that all of them are documented are derived from it.
"""

import argparse
import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.errors import SettingsError
from service.host import usable_cpus

ENV_PREFIX = "BIREAL_"


class Settings(BaseSettings):
    """Everything about the service that can be set. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(frozen=True, env_prefix=ENV_PREFIX, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 in a container.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    model_dir: Path = Field(Path("models/zoo"), description="Folder of models, <name>/<version>/ each.")
    default_classify_model: str = Field("bireal18-tiny100", description="Model of /classify when none is named.")
    default_depth_model: str = Field("bireal50-kitti-depth", description="Model of /depth when none is named.")
    default_variant: Literal["binary", "reference", "full"] = Field("binary", description="Variant when none is named.")
    fallback: Literal["none", "reference"] = Field("none", description="What answers for `binary` without the op.")
    kernel: str = Field("auto", description="Kernel of the op.")
    max_body_bytes: int = Field(20_000_000, gt=0, description="Largest body of one request.")
    max_pixels: int = Field(50_000_000, gt=0, description="Largest image, width x height, checked before decoding.")
    max_images_per_request: int = Field(16, gt=0, description="Most images in one multipart request.")
    decode_threads: int = Field(default_factory=usable_cpus, gt=0, description="Threads that decode images.")
    intra_op_threads: int = Field(default_factory=usable_cpus, gt=0, description="Threads of one run of a network.")
    workers: int = Field(1, gt=0, description="Runs at the same time.")
    queue_size: int = Field(64, gt=0, description="Requests that may wait; one more is answered 429.")
    max_batch: int = Field(1, gt=0, description="Most images of waiting requests that are run together.")
    default_timeout_s: float = Field(30.0, gt=0, description="Time that a request has when it does not say.")
    drain_s: float = Field(5.0, ge=0, description="Time between SIGTERM and the end of accepting connections.")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field((), description="Origins that browsers may call from.")
    top_k: int = Field(5, gt=0, description="Classes in an answer when the request does not say.")
    min_probability: float = Field(0.0, ge=0, le=1, description="Probability below which an answer is uncertain.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["text", "json"] = Field("text", description="One line of text, or one JSON object, a record.")


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

    Raises:
        SettingsError: A value is not valid; the message names the variable and what is accepted.
    """
    raise NotImplementedError


def add_arguments(parser: argparse.ArgumentParser, names: Sequence[str] | None = None) -> None:
    """Adds an option `--field-name` for each setting (or those named), unset (None) unless given.

    `load_settings(settings_overrides(namespace))` turns the parsed options into settings.
    """
    raise NotImplementedError


def settings_overrides(namespace: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given on the command line, for `load_settings`."""
    raise NotImplementedError


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """One sentence for each `BIREAL_` variable that is no setting, with the nearest name: to be logged at start."""
    raise NotImplementedError


def documentation() -> list[SettingDoc]:
    """Every setting in order, as shown in docs/settings.md and in --help."""
    raise NotImplementedError
