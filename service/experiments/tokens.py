"""Feedback tokens: signed predictions, so that any replica can score them later without storing them."""

import base64
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from itsdangerous import BadSignature, TimestampSigner
from pydantic_core import to_json

from service.card import TaskName, VariantName
from service.errors import BadTokenError, ExpiredTokenError
from service.randomness import random_bytes

log = logging.getLogger(__name__)

_SALT = "bireal-feedback-1"  # change it when the format of the content changes
_MAX_LENGTH = 4096
_COMPRESS_FROM = 400
_CLOCKS_S = 300  # how far the signing replica's clock may be ahead


class Target(NamedTuple):
    """What ran: a model, its version and the variant."""

    model: str
    version: str
    variant: VariantName


class Prediction(NamedTuple):
    """The content of a token.

    Attributes:
        id: Random ID of the answer.
        request_id: ID of the request, for people.
        task: Task of the answer.
        target: Network that answered.
        classes: Classification: indices of the answered classes, best first, at most five.
        picture: Depth: SHA-256 of the upload, so that no other picture can be scored in its place.
        fx_px: Depth: the focal length that the client sent.
        experiment: Name, revision and arm, if the answer was part of an experiment.
        other: Network of the other arm, if it ran too.
        other_classes: Classification: classes of the other arm, best first.
        subject: In a split, pseudonym of the subject; see `Tokens.pseudonym`.
    """

    id: str
    request_id: str
    task: TaskName
    target: Target
    classes: tuple[int, ...] = ()
    picture: str | None = None
    fx_px: float | None = None
    experiment: tuple[str, str, str] | None = None
    other: Target | None = None
    other_classes: tuple[int, ...] = ()
    subject: str | None = None


def new_id() -> str:
    """Creates an ID for an answer from 96 random bits."""
    return base64.b64encode(random_bytes(12), b"-_").decode()


_FIELDS = Prediction._fields


class Tokens:
    """Signs and reads tokens.

    Args:
        secrets: The first one signs, and all are accepted, so put a new secret before the old one. If empty, a random
            secret of this process is used.
        max_age_s: Maximum age of a token, seconds.
    """

    def __init__(self, secrets: Sequence[str], *, max_age_s: float) -> None:
        if not secrets:
            log.warning(
                "BIREAL_FEEDBACK_SECRETS is not set: feedback tokens are signed with a random secret, so other "
                "replicas, and this one after a restart, will reject them"
            )
            secrets = [os.urandom(32).hex()]
        # itsdangerous signs with the last key of its list.
        self._signer = TimestampSigner([secret.encode() for secret in reversed(secrets)], salt=_SALT)
        self._subject_key = hashlib.sha256(f"{_SALT} subject {secrets[0]}".encode()).digest()
        self._max_age_s = max_age_s

    def pseudonym(self, experiment: str, subject: str) -> str:
        """Returns a pseudonym of a subject within an experiment, 16 characters, the same on every replica.

        It is a keyed hash, so that neither the token nor the store reveals who took part.
        """
        made = hashlib.blake2b(f"{experiment}\x1f{subject}".encode(), key=self._subject_key, digest_size=12)
        return base64.b64encode(made.digest(), b"-_").decode()

    def sign(self, prediction: Prediction) -> str:
        """Returns the token of a prediction: ASCII without spaces, about 300 characters."""
        content: dict[str, object] = {name: value for name, value in zip(_FIELDS, prediction, strict=True) if value}
        content["target"] = prediction.target._asdict()
        if prediction.other is not None:
            content["other"] = prediction.other._asdict()
        data = to_json(content)
        if len(data) > _COMPRESS_FROM:
            data = b"." + zlib.compress(data)
        return self._signer.sign(base64.b64encode(data, b"-_").rstrip(b"=")).decode()

    def read(self, token: str) -> Prediction:
        """Verifies a token and returns its content.

        Raises:
            BadTokenError: The token was not signed by this service, or by a replica whose clock is far ahead.
            ExpiredTokenError: The token is too old.
        """
        if len(token) > _MAX_LENGTH or not token.isascii():
            raise BadTokenError("The feedback token is too long or contains non-ASCII characters.")
        try:
            signed, at = self._signer.unsign(token, return_timestamp=True)
        except BadSignature:
            raise BadTokenError("The signature of the feedback token does not match its content.") from None
        age_s = self._signer.get_timestamp() - at.timestamp()
        if age_s > self._max_age_s:
            raise ExpiredTokenError(self._max_age_s)
        if age_s < -_CLOCKS_S:
            raise BadTokenError(
                f"The feedback token is dated {-age_s / 60:.0f} minutes ahead of this service's clock.",
                remedy="The service's operator should synchronise the clocks of its replicas; then send it again.",
            )
        data = base64.urlsafe_b64decode(signed + b"=" * (-len(signed) % 4))
        content = json.loads(zlib.decompress(data[1:]) if data.startswith(b".") else data)  # ours: it is signed
        for name in ("target", "other"):
            if name in content:
                content[name] = Target(**content[name])
        for name in ("classes", "other_classes", "experiment"):
            if name in content:
                content[name] = tuple(content[name])
        # Ignore members of later versions: during a rolling update, two versions of the service answer.
        return Prediction(**{name: content[name] for name in _FIELDS if name in content})
