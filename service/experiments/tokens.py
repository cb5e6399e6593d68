"""Feedback tokens: what was predicted, signed, so that any replica can judge it later and none has to remember it."""

import base64
import hashlib
import hmac
import json
import logging
import os
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from itsdangerous import BadSignature, TimestampSigner
from itsdangerous.encoding import base64_encode, int_to_bytes, want_bytes
from pydantic_core import to_json

from service.card import TaskName, VariantName
from service.errors import BadTokenError, ExpiredTokenError
from service.randomness import random_bytes

log = logging.getLogger(__name__)

_SALT = "bireal-feedback-1"  # another version of the token's content gets another salt
_MAX_LENGTH = 4096
_COMPRESS_FROM = 400
_CLOCKS_S = 300  # how far the clock of the replica that signed may be ahead


class Target(NamedTuple):
    """What ran: a model, its version and the variant."""

    model: str
    version: str
    variant: VariantName


class Prediction(NamedTuple):
    """What a token says.

    Attributes:
        id: Of the answer; random.
        request_id: Of the request, for people.
        task: What was done.
        target: What answered.
        classes: Classification: indices of the classes answered, best first, at most five.
        picture: Depth: SHA-256 of the upload, so that another picture cannot be scored in its place.
        fx_px: Depth: the focal length that was sent.
        experiment: Name, revision and arm, where the answer was part of an experiment.
        other: What ran beside it.
        other_classes: What that said.
        subject: In a split, who was assigned: see `Tokens.pseudonym`.
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
    """An id for an answer: 96 random bits."""
    return base64.b64encode(random_bytes(12), b"-_").decode()


_FIELDS = Prediction._fields


class _Signer(TimestampSigner):
    """Signs as itsdangerous does with its defaults; what stays the same between two signatures is made once."""

    def __init__(self, secrets: list[bytes]) -> None:
        super().__init__(secrets, salt=_SALT)
        self._keyed = hmac.new(self.derive_key(), digestmod="sha1")
        self._second = (0, b"")

    def sign(self, value: str | bytes) -> bytes:
        """See `itsdangerous.TimestampSigner`."""
        second, stamp = self._second
        if (now := self.get_timestamp()) != second:
            stamp = b"." + base64_encode(int_to_bytes(now))
            self._second = now, stamp
        stamped = want_bytes(value) + stamp
        mac = self._keyed.copy()
        mac.update(stamped)
        return stamped + b"." + base64.b64encode(mac.digest(), b"-_").rstrip(b"=")


class Tokens:
    """Signs and reads tokens.

    Args:
        secrets: The first signs, all are accepted: a new one is put in front of the old one. Without any, a random one
            of this process.
        max_age_s: How old a token may be.
    """

    def __init__(self, secrets: Sequence[str], *, max_age_s: float) -> None:
        if not secrets:
            log.warning(
                "no BIREAL_FEEDBACK_SECRETS: feedback tokens are signed with a random secret, and neither other "
                "replicas nor this service after a restart will accept them"
            )
            secrets = [os.urandom(32).hex()]
        # itsdangerous signs with the last key of its list.
        self._signer = _Signer([secret.encode() for secret in reversed(secrets)])
        self._subject_key = hashlib.sha256(f"{_SALT} subject {secrets[0]}".encode()).digest()
        self._max_age_s = max_age_s

    def pseudonym(self, experiment: str, subject: str) -> str:
        """Names a subject within an experiment, 16 characters.

        Keyed, so that neither the token nor the store tells whether somebody took part, and the same at every replica.
        """
        made = hashlib.blake2b(f"{experiment}\x1f{subject}".encode(), key=self._subject_key, digest_size=12)
        return base64.b64encode(made.digest(), b"-_").decode()

    def sign(self, prediction: Prediction) -> str:
        """The token of a prediction: ASCII without spaces, some 300 characters."""
        content: dict[str, object] = {name: value for name, value in zip(_FIELDS, prediction, strict=True) if value}
        content["target"] = prediction.target._asdict()
        if prediction.other is not None:
            content["other"] = prediction.other._asdict()
        data = to_json(content)
        if len(data) > _COMPRESS_FROM:
            data = b"." + zlib.compress(data)
        return self._signer.sign(base64.b64encode(data, b"-_").rstrip(b"=")).decode()

    def read(self, token: str) -> Prediction:
        """What a token says.

        Raises:
            BadTokenError: It was not signed by this service, or by a replica whose clock is far ahead.
            ExpiredTokenError: It is too old.
        """
        if len(token) > _MAX_LENGTH or not token.isascii():
            raise BadTokenError("The feedback token is too long, or is not text of this service.")
        try:
            signed, at = self._signer.unsign(token, return_timestamp=True)
        except BadSignature:
            raise BadTokenError("The signature of the feedback token does not fit its content.") from None
        age_s = self._signer.get_timestamp() - at.timestamp()
        if age_s > self._max_age_s:
            raise ExpiredTokenError(self._max_age_s)
        if age_s < -_CLOCKS_S:
            raise BadTokenError(
                f"The answer is dated {-age_s / 60:.0f} minutes ahead of this service's clock.",
                remedy="Who runs the service should set the clocks of its replicas; then send the feedback again.",
            )
        data = base64.urlsafe_b64decode(signed + b"=" * (-len(signed) % 4))
        content = json.loads(zlib.decompress(data[1:]) if data.startswith(b".") else data)  # ours: the signature fits
        for name in ("target", "other"):
            if name in content:
                content[name] = Target(**content[name])
        for name in ("classes", "other_classes", "experiment"):
            if name in content:
                content[name] = tuple(content[name])
        # Of a later version's members nothing is known here: a rolling update has both versions answer for a while.
        return Prediction(**{name: content[name] for name in _FIELDS if name in content})
