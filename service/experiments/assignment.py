"""Assignment of subjects to arms by a hash, so that all replicas agree without shared state."""

import hashlib


def position(salt: str, experiment: str, subject: str) -> float:
    """Returns a subject's fixed position in [0, 1): uniform, and independent of its position in other experiments."""
    text = f"{salt}\x1f{experiment}\x1f{subject}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64


def gets_candidate(salt: str, experiment: str, subject: str, weight: float) -> bool:
    """Whether a subject gets the candidate. A larger weight only moves subjects from the baseline to the candidate."""
    return position(salt, experiment, subject) < weight
