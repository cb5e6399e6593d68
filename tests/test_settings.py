"""Settings: one list for the environment, the command line and the documentation."""

import argparse
import os
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.errors import SettingsError
from service.host import usable_cpus
from service.settings import (
    Settings,
    add_arguments,
    documentation,
    export_kernel,
    load_settings,
    markdown_table,
    settings_overrides,
    unknown_variables,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.startswith("BIREAL_"):
            monkeypatch.delenv(variable)


def test_defaults_answer_on_this_machine_only() -> None:
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.default_variant == "binary"
    assert settings.fallback == "none"
    assert settings.cors_origins == ()
    assert settings.model_dir == ROOT / "models" / "zoo"


def test_a_proxy_closes_idle_connections_first() -> None:
    """ingress-nginx and AWS's load balancers do after 60 s. Whoever is first must not be the one that answers."""
    assert load_settings().keep_alive_s > 60


def test_threads_fill_the_usable_cpus_and_no_more() -> None:
    cpus = usable_cpus()
    assert (load_settings().intra_op_threads, load_settings().workers) == (cpus, 1)
    assert load_settings({"intra_op_threads": 1}).workers == cpus
    assert load_settings({"intra_op_threads": 10 * cpus}).workers == 1
    assert load_settings({"intra_op_threads": 1, "workers": 7}).workers == 7


def test_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIREAL_PORT", "9001")
    monkeypatch.setenv("BIREAL_MODEL_DIR", "zoo")
    monkeypatch.setenv("BIREAL_CORS_ORIGINS", " https://a.example , http://localhost:3000,")
    settings = load_settings()
    assert settings.port == 9001
    assert settings.model_dir == Path("zoo")
    assert settings.cors_origins == ("https://a.example", "http://localhost:3000")


def test_overrides_win_over_the_environment_and_none_is_not_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIREAL_PORT", "9001")
    assert load_settings({"port": 9002}).port == 9002
    assert load_settings({"port": None}).port == 9001


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        load_settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("variable", "value", "accepted"),
    [
        ("BIREAL_PORT", "tcp://10.0.0.1:8000", "valid integer"),
        ("BIREAL_PORT", "65536", "less than or equal to 65535"),
        ("BIREAL_HOST", "", "at least 1 character"),
        ("BIREAL_DEFAULT_VARIANT", "fast", "'binary', 'reference' or 'full'"),
        ("BIREAL_FALLBACK", "full", "'none' or 'reference'"),
        ("BIREAL_MAX_BODY_BYTES", "20 MB", "valid integer"),
        ("BIREAL_MAX_PIXELS", "200000000", "less than or equal to 178000000"),
        ("BIREAL_DEFAULT_TIMEOUT_S", "1e10", "less than or equal to 1000000000"),
        ("BIREAL_INTRA_OP_THREADS", "0", "greater than 0"),
        ("BIREAL_DEFAULT_TIMEOUT_S", "inf", "finite"),
        ("BIREAL_DRAIN_S", "-1", "greater than or equal to 0"),
        ("BIREAL_KEEP_ALIVE_S", "0", "greater than 0"),
        ("BIREAL_TOP_K", "1001", "less than or equal to 1000"),  # as of a request
        ("BIREAL_MIN_PROBABILITY", "1.5", "less than or equal to 1"),
        ("BIREAL_MIN_PROBABILITY", "nan", ""),
        ("BIREAL_LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("BIREAL_CORS_ORIGINS", "a.example", "https://host"),
        ("BIREAL_CORS_ORIGINS", "https://a.example/page", "https://host"),
    ],
)
def test_a_bad_value_is_named_with_what_is_accepted(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, accepted: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert caught.value.detail.startswith(f"{variable}=")
    assert accepted in caught.value.detail
    assert "BIREAL_WORKERS" not in caught.value.detail, "a setting that was not given is not to blame"
    assert "docs/settings.md" in caught.value.remedy


def test_a_bad_option_is_named_as_an_option() -> None:
    with pytest.raises(SettingsError, match=r"--top-k=0: .*greater than 0.* --port='x'|--port='x'.*--top-k=0"):
        load_settings({"top_k": 0, "port": "x"})


def test_unknown_override_is_refused() -> None:
    with pytest.raises(SettingsError, match="--prot"):
        load_settings({"prot": 1})


def test_any_origin_may_be_allowed() -> None:
    assert load_settings({"cors_origins": "*"}).cors_origins == ("*",)


# --- command line ----------------------------------------------------------------------------------------------------


def parse(*words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    return settings_overrides(parser.parse_args(words))


def test_every_setting_is_an_option_and_unset_unless_given() -> None:
    assert parse() == {}
    secret = {
        "api_keys",
        "admin_keys",
        "feedback_secrets",
    }  # options of a process are shown to everybody on the machine
    given = {doc.name: parse(doc.option, "1") for doc in documentation() if doc.name not in secret}
    assert given == {name: {name: "1"} for name in Settings.model_fields if name not in secret}
    for doc in documentation():
        if doc.name in secret:
            with pytest.raises(SystemExit):
                parse(f"{doc.option}=a-key-of-some-length")


def test_options_become_settings() -> None:
    settings = load_settings(parse("--port", "0", "--max-batch", "4", "--log-format", "json", "--cors-origins", "*"))
    assert (settings.port, settings.max_batch, settings.log_format) == (0, 4, "json")
    assert settings.cors_origins == ("*",)


def test_options_can_be_limited_to_some() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser, ["model_dir", "intra_op_threads"])
    assert "--model-dir" in parser.format_help()
    with pytest.raises(SystemExit):
        parser.parse_args(["--port", "1"])


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "http://", "/v1/traces"])
def test_an_endpoint_for_traces_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(
        SettingsError, match=re.escape(f"--otlp-endpoint={endpoint!r}: give the collector's address as http://")
    ):
        load_settings({"otlp_endpoint": endpoint})
    assert load_settings({"otlp_endpoint": "https://collector"}).otlp_endpoint == "https://collector"


def test_help_shows_variable_and_default() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    text = re.sub(r"\s+", " ", parser.format_help())
    assert "[BIREAL_QUEUE_SIZE]" in text
    assert "Default: usable CPUs." in text


# --- documentation ---------------------------------------------------------------------------------------------------


def test_every_setting_is_documented_in_the_handbook() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert markdown_table() in text, "replace the table by what service.settings.markdown_table() returns"


def test_descriptions_are_sentences_and_defaults_name_no_machine() -> None:
    for doc in documentation():
        assert doc.description.endswith("."), doc.name
        assert str(ROOT) not in doc.default
        assert "Undefined" not in doc.default


# --- traps -----------------------------------------------------------------------------------------------------------


def test_misspelt_variables_are_pointed_out() -> None:
    sentences = unknown_variables(
        {"BIREAL_REVISION": "0abc", "BIREAL_PROT": "1", "BIREAL_PORT": "1", "PATH": "x", "BIREAL_SERVICE_HOST": "h"}
    )
    assert len(sentences) == 2
    assert "BIREAL_PROT" in sentences[0]
    assert "BIREAL_PORT?" in sentences[0]
    assert "BIREAL_SERVICE_HOST" in sentences[1]


def test_kernel_is_handed_to_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIREAL_KERNEL", "avx2")
    settings = load_settings()
    assert settings.kernel == "avx2"
    export_kernel(load_settings({"kernel": "scalar"}))
    assert os.environ["BIREAL_KERNEL"] == "scalar"
    export_kernel(load_settings({"kernel": "auto"}))
    assert "BIREAL_KERNEL" not in os.environ
