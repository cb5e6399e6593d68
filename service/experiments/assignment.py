"""Assignment of requests to arms. Subjects are assigned by a hash, so that all replicas agree without shared state."""

import hashlib
import random
from dataclasses import dataclass

from service.experiments.declaration import Arm, Declaration
from service.registry import Handle


@dataclass(frozen=True, slots=True)
class Assignment:
    """The arm of an experiment that a request is assigned to.

    Attributes:
        declaration: The experiment.
        revision: Identifier of what is compared; see `Declaration.revision`.
        arm: The arm that answers.
        handle: The network of that arm.
        other: The network of the other arm, if it may run too (`shadow`, `paired`).
        subject: The subject that `split` assigned; None in the other modes.
    """

    declaration: Declaration
    revision: str
    arm: Arm
    handle: Handle
    other: Handle | None = None
    subject: str | None = None

    def sampled(self) -> bool:
        """Draws whether the other arm runs too: on an image (`shadow`), or on all images of a request (`paired`)."""
        return self.other is not None and random.random() < self.declaration.sample  # noqa: S311  not a secret


def position(salt: str, experiment: str, subject: str) -> float:
    """Returns a subject's fixed position in [0, 1): uniform, and independent of its position in other experiments."""
    text = f"{salt}\x1f{experiment}\x1f{subject}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64


def gets_candidate(salt: str, experiment: str, subject: str, weight: float) -> bool:
    """Whether a subject gets the candidate. A larger weight only moves subjects from the baseline to the candidate."""
    return position(salt, experiment, subject) < weight
