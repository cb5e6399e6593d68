"""One model on disk and in memory: its card, its variants, and the handle that a request runs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from service.backends.base import LoadedModel
from service.card import Card, VariantName
from service.errors import ServiceError
from service.tasks import TASKS, Task

State = Literal["starting", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class Handle:
    """A network that is ready to run, and how it came to be chosen.

    Attributes:
        card: of the model that runs; for `full` of a binary model that is the twin's.
        variant: the variant that runs.
        model: the loaded network.
        kernel: instruction set of the bit-packed kernel, or `onnxruntime`.
        fallback: why another variant than the one asked for runs; None normally.
        kept: what whoever answers with it makes once, by its type.
    """

    card: Card
    variant: VariantName
    model: LoadedModel
    kernel: str
    fallback: str | None = None
    kept: dict[type, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def task(self) -> Task[Any, Any]:
        """What the network does."""
        return TASKS[self.card.task]


@dataclass(slots=True)
class Loaded:
    """One variant of one model: a handle, or the reason why there is none."""

    handle: Handle | None = None
    error: ServiceError | None = None


@dataclass(slots=True)
class Entry:
    """One version of one model."""

    card: Card
    variants: dict[VariantName, Loaded] = field(default_factory=dict)
    seconds: dict[VariantName, float] = field(default_factory=dict)  # that each took to load

    @property
    def label(self) -> str:
        """`name@version`."""
        return f"{self.card.name}@{self.card.version}"

    @property
    def runs(self) -> bool:
        """Whether there is a network to run at all."""
        return any(loaded.handle is not None for loaded in self.variants.values())

    def errors(self) -> Iterator[ServiceError]:
        """What is wrong with its variants."""
        return (loaded.error for loaded in self.variants.values() if loaded.error is not None)


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests can be answered, and what is missing if not.

    Attributes:
        state: `starting` while models load; `failed` when what must be served cannot be.
        reasons: one sentence for each thing that is missing.
        models: every model variant, `name@version/variant`, and whether it runs.
    """

    state: State
    reasons: tuple[str, ...]
    models: dict[str, bool]


def version_key(version: str) -> list[tuple[int, int | str]]:
    """Orders versions as people do: 2 before 10, 1.9 before 1.10."""
    return [(1, int(part)) if part.isdigit() else (0, part) for part in re.split(r"(\d+)", version) if part]
