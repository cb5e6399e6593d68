"""The current experiments, and the choice of the one that a request takes part in.

Experiments are declared in a file, and an administrator can change them. The changes are kept in the store: they
survive a restart, reach every replica that shares the store within seconds, and override the file's declarations of the
same name.
"""

import logging
import threading
from collections.abc import Callable, Iterable

from pydantic import ValidationError

from service.card import TaskName
from service.errors import InvalidExperimentError, NotReadyError, ServiceError, UnknownExperimentError
from service.experiments.assignment import Assignment, gets_candidate
from service.experiments.declaration import MAX_EXPERIMENTS, Change, Declaration, contradictions
from service.experiments.store import Store
from service.metrics import ExperimentMetrics
from service.registry import Handle, Registry

log = logging.getLogger(__name__)


class Experiments:
    """The current experiments; see the module's docstring.

    Args:
        declared: Declarations of the file.
        store: Store of an administrator's changes.
        registry: Resolves the networks of the arms.
        metrics: Receives the state and weights of the experiments.
    """

    def __init__(
        self, declared: Iterable[Declaration], store: Store, registry: Registry, metrics: ExperimentMetrics
    ) -> None:
        self._file = {declaration.name: declaration for declaration in declared}
        self._store, self._registry, self._metrics = store, registry, metrics
        self._lock = threading.Lock()
        self._changing = threading.Lock()  # serialises changes, which depend on the current state
        self._complaints: dict[str, str] = {}
        self._changes: dict[str, str | None] | None = None
        self._all: dict[str, Declaration] = {}
        self._running: dict[tuple[TaskName, str | None], Declaration] = {}
        self.refresh()

    # ---- current experiments ---------------------------------------------------------------------------------------

    def all(self) -> list[Declaration]:
        """Returns every experiment, sorted by name."""
        current = self._all  # another thread may replace it meanwhile
        return [current[name] for name in sorted(current)]

    def get(self, name: str) -> Declaration:
        """Returns one experiment.

        Raises:
            UnknownExperimentError: There is no experiment with this name.
        """
        found = self._all.get(name)
        if found is None:
            raise UnknownExperimentError(name, sorted(self._all))
        return found

    def handles(self, declaration: Declaration) -> tuple[Handle, Handle]:
        """Returns the networks of baseline and candidate.

        Raises:
            ServiceError: One of them is not served or is replaced by its fallback, both are the same network, or their
                inputs or classes differ.
        """
        baseline, candidate = (
            self._registry.resolve(declaration.task, arm.model or declaration.model, arm.variant)
            for arm in declaration.arms
        )
        for handle in (baseline, candidate):
            if handle.fallback is not None:  # results would be attributed to a network that never ran
                raise NotReadyError(
                    f"An arm of {declaration.name!r} does not run here: {handle.fallback}",
                    remedy="Fix the loading of the operator (GET /models shows the error), or compare other variants.",
                )
        if baseline is candidate:  # by two names, such as a version and a label that was moved to it
            what = f"{baseline.variant} of {baseline.card.name}@{baseline.card.version}"
            raise InvalidExperimentError(
                f"There is nothing to compare: both arms of {declaration.name!r} are now {what}.",
                remedy="Name two variants or versions, or point a label of one arm at another version.",
            )
        if (baseline.card.input, baseline.card.depth) != (candidate.card.input, candidate.card.depth):
            raise InvalidExperimentError(
                f"{baseline.card.name} and {candidate.card.name} take different inputs, so an image decoded and scaled "
                "once cannot run on both.",
                remedy="Compare models whose cards have the same `input` (and `depth`).",
            )
        if baseline.card is not candidate.card and baseline.card.wnids != candidate.card.wnids:
            raise InvalidExperimentError(  # arms are compared by class index
                f"{baseline.card.name} and {candidate.card.name} have different classes or class orders.",
                remedy="Compare models whose cards list the same `classes` in the same order.",
            )
        return baseline, candidate

    def revision(self, declaration: Declaration) -> str:
        """Returns the current revision (see `Declaration.revision`); raises as `handles` does."""
        baseline, candidate = self.handles(declaration)
        return declaration.revision((baseline.card.version, candidate.card.version))

    # ---- changes ---------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Applies an administrator's changes, made here or on another replica, and updates the metrics.

        Blocks: call it in a thread.

        Raises:
            FeedbackStoreError: The store cannot be read.
        """
        with self._lock:  # also while reading: of two at once, the one that read first must not be applied last
            changes = self._store.declarations()
            if changes != self._changes:
                self._changes = changes
                self._apply(changes)
            self._show()  # models may come and go without a change to a declaration

    def put(self, declaration: Declaration) -> Declaration:
        """Creates or replaces an experiment. Blocks.

        Raises:
            InvalidExperimentError: It conflicts with another experiment, or the arms' inputs or classes differ.
            ServiceError: One of its arms is not served.
            FeedbackStoreError: The change could not be stored.
        """
        self.handles(declaration)
        return self._change(declaration.name, lambda _: declaration)

    def change(self, name: str, change: Change) -> Declaration:
        """Changes an existing experiment; raises as `put` does. Blocks."""
        return self._change(name, lambda current: change.apply(current or self.get(name)))

    def remove(self, name: str) -> None:
        """Removes an experiment; its data stay in the store until retention removes them. Blocks."""
        with self._changing:
            self.refresh()
            self.get(name)
            self._store.put_declaration(name, None)
            self.refresh()

    def _change(self, name: str, change: Callable[[Declaration | None], Declaration]) -> Declaration:
        with self._changing:
            self.refresh()  # another replica may have just changed it
            changed = change(self._all.get(name))
            others = [declaration for declaration in self.all() if declaration.name != name]
            if len(others) >= MAX_EXPERIMENTS:
                raise InvalidExperimentError(f"There are {MAX_EXPERIMENTS} experiments already.", remedy="Remove one.")
            if contradiction := contradictions([*others, changed]):
                raise InvalidExperimentError(f"{contradiction[0].upper()}{contradiction[1:]}")
            self._store.put_declaration(name, changed.model_dump_json(exclude_defaults=True))
            self.refresh()
            return changed

    def _apply(self, changes: dict[str, str | None]) -> None:
        """Makes the file's experiments, with these changes applied, the current ones."""
        current = dict(self._file)
        for name, document in changes.items():
            if document is None:
                current.pop(name, None)
                continue
            try:
                current[name] = Declaration.model_validate_json(document)
            except ValidationError:  # written by another version of the service
                log.warning("the stored declaration of experiment %s is not valid here and is ignored", name)
        for name in self._all.keys() - current.keys():
            self._metrics.remove(name)
        for name in self._complaints.keys() - current.keys():
            self._complaints.pop(name, None)
        running: dict[tuple[TaskName, str | None], Declaration] = {}
        for declaration in current.values():
            if declaration.state == "running":
                # Simultaneous changes on two replicas may conflict; the same one wins on every replica.
                running.setdefault((declaration.task, declaration.model), declaration)
        self._all, self._running = current, running

    def _show(self) -> None:
        """Updates the metrics of every experiment's weights and state."""
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

    # ---- assignment ------------------------------------------------------------------------------------------------

    def assign(self, task: TaskName, model: str | None, variant: str | None, subject: str) -> Assignment | None:
        """Returns how an experiment answers a request, or None if the request is not part of one.

        A request that names a variant gets that variant. An experiment whose arms cannot run is skipped, so that it
        never takes the service down.

        Args:
            task: The endpoint's task.
            model: The model as named by the client, or None.
            variant: The variant as named by the client, or None.
            subject: The subject of the request, who always gets the same arm in `split`.
        """
        declaration = self._running.get((task, model)) if variant is None else None
        if declaration is None:
            return None
        try:
            baseline, candidate = self.handles(declaration)
        except ServiceError as error:
            if self._complaints.get(declaration.name) != str(error):  # log once, not on every request
                self._complaints[declaration.name] = str(error)
                log.warning("experiment %s does not run: %s", declaration.name, error)
            return None
        revision = declaration.revision((baseline.card.version, candidate.card.version))
        if declaration.mode == "split":
            if gets_candidate(declaration.salt, declaration.name, subject, declaration.weight):
                return Assignment(declaration, revision, declaration.candidate, candidate, subject=subject)
            return Assignment(declaration, revision, declaration.baseline, baseline, subject=subject)
        return Assignment(declaration, revision, declaration.baseline, baseline, candidate)
