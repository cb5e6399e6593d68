"""Feedback tokens: what was predicted, signed, so that any replica can judge it later and none has to remember it."""

import base64
import hmac
import json
import logging
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

from itsdangerous import BadSignature, SignatureExpired, TimestampSigner
from itsdangerous.signer import SigningAlgorithm
from pydantic_core import to_json

from service.card import TaskName, VariantName
from service.errors import BadTokenError, ExpiredTokenError

log = logging.getLogger(__name__)

_SALT = "bireal-feedback-1"  # another version of the token's content gets another salt
_MAX_LENGTH = 4096
_COMPRESS_FROM = 400


@dataclass(frozen=True, slots=True)
class Target:
    """What ran: a model, its version and the variant."""

    model: str
    version: str
    variant: VariantName


@dataclass(frozen=True, slots=True)
class Prediction:
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


_FIELDS = tuple(field.name for field in fields(Prediction))


def new_id() -> str:
    """An id for an answer: 96 random bits."""
    return base64.urlsafe_b64encode(os.urandom(12)).decode()


class _Hmac(SigningAlgorithm):
    """As itsdangerous' own, HMAC-SHA1, in one call of OpenSSL."""

    def get_signature(self, key: bytes, value: bytes) -> bytes:
        """The signature of a value."""
        return hmac.digest(key, value, "sha1")


class _Signer(TimestampSigner):
    """Derives each secret's key once, and not for each signature."""

    def derive_key(self, secret_key: str | bytes | None = None) -> bytes:
        """See `itsdangerous.Signer`."""
        known: dict[str | bytes | None, bytes] = self.__dict__.setdefault("_derived", {})
        key = known.get(secret_key)
        if key is None:
            key = known[secret_key] = super().derive_key(secret_key)
        return key


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
        self._signer = _Signer([secret.encode() for secret in reversed(secrets)], salt=_SALT, algorithm=_Hmac())
        self._max_age_s = max_age_s

    def sign(self, prediction: Prediction) -> str:
        """The token of a prediction: ASCII without spaces, some 300 characters."""
        # By hand: dataclasses.asdict would take longer than all the rest, and every answer is signed.
        content: dict[str, object] = {name: value for name in _FIELDS if (value := getattr(prediction, name))}
        for name in ("target", "other"):
            if isinstance(target := content.get(name), Target):
                content[name] = {"model": target.model, "version": target.version, "variant": target.variant}
        data = to_json(content)
        if len(data) > _COMPRESS_FROM:
            data = b"." + zlib.compress(data)
        return self._signer.sign(base64.urlsafe_b64encode(data).rstrip(b"=")).decode()

    def read(self, token: str) -> Prediction:
        """What a token says.

        Raises:
            BadTokenError: It was not signed by this service.
            ExpiredTokenError: It is too old.
        """
        if len(token) > _MAX_LENGTH or not token.isascii():
            raise BadTokenError("The feedback token is too long, or is not text of this service.")
        try:
            signed = self._signer.unsign(token, max_age=int(self._max_age_s))
        except SignatureExpired:
            raise ExpiredTokenError(self._max_age_s) from None
        except BadSignature:
            raise BadTokenError("The signature of the feedback token does not fit its content.") from None
        data = base64.urlsafe_b64decode(signed + b"=" * (-len(signed) % 4))
        content = json.loads(zlib.decompress(data[1:]) if data.startswith(b".") else data)  # ours: the signature fits
        for name in ("target", "other"):
            if name in content:
                content[name] = Target(**content[name])
        for name in ("classes", "other_classes", "experiment"):
            if name in content:
                content[name] = tuple(content[name])
        return Prediction(**content)
