"""Keys and secrets as text: their rules, and how the service and its clients read key files."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import SecretStr

from service.errors import SettingsError

_LENGTH = 16  # minimum, characters


def fits_header(key: str) -> bool:
    """Whether a header can carry a key: one line, of printable ASCII without spaces."""
    return key.isascii() and key.isprintable() and " " not in key


def key_problem(key: str) -> str | None:
    """What is wrong with a key, without revealing it; None for a valid one."""
    if len(key) < _LENGTH:
        return f"has {len(key)} characters; it must have at least {_LENGTH} (try `openssl rand -hex 24`)"
    if not fits_header(key):
        return "has characters that a header cannot carry; use letters, digits and punctuation"
    return None


def keys_in_file(path: Path) -> list[str]:
    """The keys in a file, one per line; empty lines and lines that begin with #, indented or not, are ignored.

    Raises:
        OSError: The file cannot be read.
        UnicodeDecodeError: It is not text.
    """
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def keys_of(given: Iterable[SecretStr], file: Path | None, variable: str) -> list[str]:
    """The keys of a setting, followed by those of the corresponding key file.

    Args:
        given: The keys of the setting, already validated.
        file: The key file, if one is set.
        variable: The variable that sets the file, for error messages.

    Raises:
        SettingsError: The file cannot be read, holds no key, or holds an invalid one.
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
        raise SettingsError(f"{variable}={str(file)!r}: the file contains no key.", remedy="Put one key on each line.")
    for number, key in enumerate(found, 1):
        if problem := key_problem(key):
            raise SettingsError(f"{variable}={str(file)!r}: key {number} {problem}.")
    return keys + found
