"""Keys and secrets as text: what can be one, and how files of them are read, by the service and by its clients."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import SecretStr

from service.errors import SettingsError

_LENGTH = 16  # characters at least


def fits_header(key: str) -> bool:
    """Whether a header can carry a key: one line, of printable ASCII without spaces."""
    return key.isascii() and key.isprintable() and " " not in key


def key_problem(key: str) -> str | None:
    """What is wrong with a key, without naming it; None for a good one."""
    if len(key) < _LENGTH:
        return f"has {len(key)} characters; it must have at least {_LENGTH}, as `openssl rand -hex 24` makes them"
    if not fits_header(key):
        return "has characters that a header cannot carry; use letters, digits and punctuation"
    return None


def keys_in_file(path: Path) -> list[str]:
    """The keys of a file, one a line; empty lines and those that begin with #, indented or not, are passed over.

    Raises:
        OSError: The file cannot be read.
        UnicodeDecodeError: It is not text.
    """
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def keys_of(given: Iterable[SecretStr], file: Path | None, variable: str) -> list[str]:
    """The keys of a setting, then those of the file that may be named beside it.

    Args:
        given: Of the setting, which has checked them.
        file: The file, if one is named.
        variable: That names it, for errors.

    Raises:
        SettingsError: The file cannot be read, holds no key, or one that is too weak.
    """
    keys = [key.get_secret_value() for key in given]
    if file is None:
        return keys
    try:
        found = keys_in_file(file)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SettingsError(f"{variable}={str(file)!r}: the file cannot be read: {reason}.") from error
    if not found:
        raise SettingsError(f"{variable}={str(file)!r}: the file holds no key.", remedy="Put one key on each line.")
    for number, key in enumerate(found, 1):
        if problem := key_problem(key):
            raise SettingsError(f"{variable}={str(file)!r}: key {number} {problem}.")
    return keys + found
