"""Which arm a subject gets: a hash, so that every replica gives the same subject the same arm and nothing is kept."""

import hashlib


def position(salt: str, experiment: str, subject: str) -> float:
    """Where a subject lies between 0 and 1: uniform, fixed, and unrelated to where it lies in other experiments."""
    text = f"{salt}\x1f{experiment}\x1f{subject}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64


def gets_candidate(salt: str, experiment: str, subject: str, weight: float) -> bool:
    """Whether a subject is the candidate's. A larger weight only ever moves subjects from baseline to candidate."""
    return position(salt, experiment, subject) < weight
