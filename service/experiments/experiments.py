"""The experiments that there are, and which of them a request takes part in.

Declared in a file, changed by an administrator. His changes are in the store, where every replica that shares it finds
them within seconds and where they outlive a restart; they stand over the file's declaration of the same name.
"""

import logging
import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from service.card import TaskName
from service.errors import InvalidExperimentError, NotReadyError, ServiceError, UnknownExperimentError
from service.experiments.assignment import gets_candidate
from service.experiments.declaration import MAX_EXPERIMENTS, Arm, Change, Declaration, contradictions
from service.experiments.store import Store
from service.metrics import ExperimentMetrics
from service.registry import Handle, Registry

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Route:
    """How an experiment has a request answered.

    Attributes:
        declaration: The experiment.
        revision: What is compared: see `Declaration.revision`.
        arm: What answers.
        handle: Its network.
        other: The network of the other arm, where that may run too (`shadow`, `paired`).
        subject: Whom `split` assigned; None in the other modes.
    """

    declaration: Declaration
    revision: str
    arm: Arm
    handle: Handle
    other: Handle | None = None
    subject: str | None = None

    def sampled(self) -> bool:
        """Draws whether the other arm runs on an image."""
        return self.other is not None and random.random() < self.declaration.sample  # noqa: S311  no secret


class Experiments:
    """See the module's text.

    Args:
        declared: Those of the file.
        store: Where an administrator's changes are.
        registry: What runs the arms.
        metrics: Shows state and weights.
    """

    def __init__(
        self, declared: Iterable[Declaration], store: Store, registry: Registry, metrics: ExperimentMetrics
    ) -> None:
        self._file = {declaration.name: declaration for declaration in declared}
        self._store, self._registry, self._metrics = store, registry, metrics
        self._lock = threading.Lock()
        self._changing = threading.Lock()  # a change is made of what is there: one after the other
        self._complaints: dict[str, str] = {}
        self._changes: dict[str, str | None] | None = None
        self._all: dict[str, Declaration] = {}
        self._running: dict[tuple[TaskName, str | None], Declaration] = {}
        self.refresh()

    # ---- what there is ---------------------------------------------------------------------------------------------

    def all(self) -> list[Declaration]:
        """Every experiment, by name."""
        return [self._all[name] for name in sorted(self._all)]

    def get(self, name: str) -> Declaration:
        """One experiment.

        Raises:
            UnknownExperimentError: There is none of this name.
        """
        found = self._all.get(name)
        if found is None:
            raise UnknownExperimentError(name, sorted(self._all))
        return found

    def handles(self, declaration: Declaration) -> tuple[Handle, Handle]:
        """The networks of baseline and candidate.

        Raises:
            ServiceError: One of them is not served, is replaced by its fallback, or they do not take the same input
                or name the same classes.
        """
        baseline, candidate = (
            self._registry.resolve(declaration.task, arm.model or declaration.model, arm.variant)
            for arm in declaration.arms
        )
        for handle in (baseline, candidate):
            if handle.fallback is not None:  # its figures would be told of a network that never ran
                raise NotReadyError(
                    f"An arm of {declaration.name!r} does not run here: {handle.fallback}",
                    remedy="Make the operator loadable (GET /models says what is wrong), or compare other variants.",
                )
        if (baseline.card.input, baseline.card.depth) != (candidate.card.input, candidate.card.depth):
            raise InvalidExperimentError(
                f"{baseline.card.name} and {candidate.card.name} take different inputs, so an image decoded and scaled "
                "once cannot run on both.",
                remedy="Compare models whose cards have the same `input` (and `depth`).",
            )
        if baseline.card is not candidate.card and baseline.card.wnids != candidate.card.wnids:
            raise InvalidExperimentError(  # arms are compared by the number of the class
                f"{baseline.card.name} and {candidate.card.name} have different classes, or in another order.",
                remedy="Compare models whose cards list the same `classes` in the same order.",
            )
        return baseline, candidate

    def revision(self, declaration: Declaration) -> str:
        """What is compared now; raises as `handles` does."""
        baseline, candidate = self.handles(declaration)
        return declaration.revision((baseline.card.version, candidate.card.version))

    # ---- changing it -----------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Takes over what an administrator changed, here or at another replica, and shows which experiments run.

        Blocks: call it in a thread.

        Raises:
            FeedbackStoreError: The store cannot be read.
        """
        changes = self._store.declarations()
        with self._lock:
            if changes != self._changes:
                self._changes = changes
                self._take(changes)
            self._show()  # models come and go without a change of a declaration

    def put(self, declaration: Declaration) -> Declaration:
        """Creates an experiment, or replaces it. Blocks.

        Raises:
            InvalidExperimentError: It contradicts another one, or its arms take different inputs.
            ServiceError: One of its arms is not served.
            FeedbackStoreError: The change could not be stored.
        """
        self.handles(declaration)
        return self._change(declaration.name, lambda _: declaration)

    def change(self, name: str, change: Change) -> Declaration:
        """Changes an experiment while it goes on; raises as `put` does. Blocks."""
        return self._change(name, lambda current: change.apply(current or self.get(name)))

    def remove(self, name: str) -> None:
        """Ends an experiment; what it found stays in the store until it is too old. Blocks."""
        with self._changing:
            self.refresh()
            self.get(name)
            self._store.put_declaration(name, None)
            self.refresh()

    def _change(self, name: str, change: Callable[[Declaration | None], Declaration]) -> Declaration:
        with self._changing:
            self.refresh()  # another replica may have changed a part of it a moment ago
            changed = change(self._all.get(name))
            others = [declaration for declaration in self.all() if declaration.name != name]
            if len(others) >= MAX_EXPERIMENTS:
                raise InvalidExperimentError(f"There are {MAX_EXPERIMENTS} experiments already.", remedy="Remove one.")
            if contradiction := contradictions([*others, changed]):
                raise InvalidExperimentError(f"{contradiction[0].upper()}{contradiction[1:]}")
            self._store.put_declaration(name, changed.model_dump_json(exclude_defaults=True))
            self.refresh()
            return changed

    def _take(self, changes: dict[str, str | None]) -> None:
        """Makes the experiments of the file, with these changes, the current ones."""
        current = dict(self._file)
        for name, document in changes.items():
            if document is None:
                current.pop(name, None)
                continue
            try:
                current[name] = Declaration.model_validate_json(document)
            except ValidationError:  # written by another version of the service
                log.warning("the stored declaration of experiment %s is not valid here; it is passed over", name)
        for name in self._all.keys() - current.keys():
            self._metrics.remove(name)
        running: dict[tuple[TaskName, str | None], Declaration] = {}
        for declaration in current.values():
            if declaration.state == "running":
                # Two replicas may have changed at once what contradicts itself together: one of them wins everywhere.
                running.setdefault((declaration.task, declaration.model), declaration)
        self._all, self._running = current, running

    def _show(self) -> None:
        """Shows the weights of every experiment, and whether it takes requests."""
        for declaration in self._all.values():
            runs = self._running.get((declaration.task, declaration.model)) is declaration and self._can_run(
                declaration
            )
            self._metrics.set_state(declaration.name, declaration.mode, running=runs, weights=declaration.weights())

    def _can_run(self, declaration: Declaration) -> bool:
        try:
            self.handles(declaration)
        except ServiceError:
            return False
        return True

    # ---- routing ---------------------------------------------------------------------------------------------------

    def route(self, task: TaskName, model: str | None, variant: str | None, subject: str) -> Route | None:
        """Says how a request is answered as part of an experiment; None when it is not part of one.

        A request that names a variant gets that variant. An experiment whose candidate cannot run is left alone, so
        that it never takes the service down.

        Args:
            task: What the endpoint does.
            model: As the client named it.
            variant: Likewise.
            subject: Whom `split` gives the same arm again.
        """
        declaration = self._running.get((task, model)) if variant is None else None
        if declaration is None:
            return None
        try:
            baseline, candidate = self.handles(declaration)
        except ServiceError as error:
            if self._complaints.get(declaration.name) != str(error):  # once, not with each request
                self._complaints[declaration.name] = str(error)
                log.warning("experiment %s does not run: %s", declaration.name, error)
            return None
        revision = declaration.revision((baseline.card.version, candidate.card.version))
        if declaration.mode == "split":
            if gets_candidate(declaration.salt, declaration.name, subject, declaration.weight):
                return Route(declaration, revision, declaration.candidate, candidate, subject=subject)
            return Route(declaration, revision, declaration.baseline, baseline, subject=subject)
        return Route(declaration, revision, declaration.baseline, baseline, candidate)
