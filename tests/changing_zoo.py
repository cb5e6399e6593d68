"""A folder of models that tests change while a registry serves it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.registry import Changes, Registry
from service.settings import load_settings
from tests.tiny_zoo import colours_graph, ramp_graph, write_model

NAME = "tiny-colours"


def write(zoo: Path, version: str) -> Path:
    return write_model(zoo, NAME, colours_graph(), version=version, task="classify")


@pytest.fixture(name="zoo")
def changing_zoo(tmp_path: Path) -> Path:
    write(tmp_path, "1")
    write_model(tmp_path, "tiny-ramp", ramp_graph(), task="depth")
    return tmp_path


def refuse_to_list(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Makes folders unreadable. Their mode would not do: root may read everything, and tests may run as root."""
    iterdir = Path.iterdir

    def refuse(path: Path) -> Iterator[Path]:
        if path in folders:
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)


def opened(zoo: Path) -> tuple[Registry, Changes]:
    registry = Registry(load_settings({"model_dir": zoo, "intra_op_threads": 1}))
    registry.load()
    return registry, Changes(registry)


def version_of(registry: Registry, model: str | None = NAME) -> str:
    return registry.resolve("classify", model).card.version


def states(changes: Changes) -> dict[str, str]:
    return {f"{state.name}@{state.version}": state.state for state in changes.states()}
