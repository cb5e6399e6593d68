"""A model version in memory: its card, its variants, and the handles that requests run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from service.backends.base import LoadedModel
from service.card import Card, VariantName
from service.errors import ServiceError
from service.tasks import TASKS, Task

State = Literal["starting", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class Handle:
    """A network that is ready to run.

    Attributes:
        card: card of the model that runs; for `full` of a binary model, that of its full-precision twin.
        variant: the variant that runs.
        model: the loaded network.
        kernel: instruction set of the bit-packed kernel, or `onnxruntime`.
        fallback: why this variant runs instead of the requested one; normally None.
        kept: cache for users of the handle, by type.
    """

    card: Card
    variant: VariantName
    model: LoadedModel
    kernel: str
    fallback: str | None = None
    kept: dict[type, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def task(self) -> Task[Any, Any]:
        """The network's task."""
        return TASKS[self.card.task]


@dataclass(slots=True)
class Loaded:
    """One variant of a model: its handle, or the error that prevents it from running."""

    handle: Handle | None = None
    error: ServiceError | None = None


@dataclass(slots=True)
class Entry:
    """One version of one model.

    Attributes:
        card: Its card.
        variants: Its variants that were tried. Replaced by each one that is loaded, never changed.
        seconds: Load time of each of them.
        fallback: The reference that replaces a `binary` whose operator cannot load, if the settings allow it. One for
            all requests, so that what `Handle.kept` caches is found again.
    """

    card: Card
    variants: Mapping[VariantName, Loaded] = field(default_factory=dict)
    seconds: dict[VariantName, float] = field(default_factory=dict)
    fallback: Handle | None = None

    @property
    def label(self) -> str:
        """`name@version`."""
        return f"{self.card.name}@{self.card.version}"

    @property
    def runs(self) -> bool:
        """Whether at least one variant runs."""
        return any(loaded.handle is not None for loaded in self.variants.values())

    def errors(self) -> Iterator[ServiceError]:
        """Iterates over the errors of its variants."""
        return (loaded.error for loaded in self.variants.values() if loaded.error is not None)

    def close(self) -> None:
        """Releases the networks of its variants; see `LoadedModel.close`."""
        for loaded in self.variants.values():
            if loaded.handle is not None:
                loaded.handle.model.close()


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests can be answered, and what is missing if not.

    Attributes:
        state: `starting` while models load; `failed` if something that must be served cannot run.
        reasons: one sentence for each thing that is missing.
        models: whether each variant, `name@version/variant`, runs.
    """

    state: State
    reasons: tuple[str, ...]
    models: dict[str, bool]
