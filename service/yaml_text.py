"""Reading YAML that people write by hand, so that whatever is wrong with it is one kind of error."""

import yaml


def parse_yaml(text: str, *, as_text: bool = False) -> object:
    """Parses one YAML (or JSON) document.

    PyYAML raises a bare ValueError for what looks like a date and is none (`2024-13-45`), and RecursionError for deep
    nesting: callers that expect `YAMLError` alone would be ended by a typing mistake in one file of many.

    Args:
        text: The document.
        as_text: Leaves every scalar the text that it is in the file. `1.10` is otherwise the number 1.1, which is
            another version.

    Raises:
        yaml.YAMLError: It cannot be parsed.
    """
    loader = yaml.BaseLoader if as_text else yaml.SafeLoader
    try:
        return yaml.load(text, Loader=loader)  # noqa: S506  both construct plain values only
    except ValueError as error:
        raise yaml.YAMLError(f"a value cannot be read: {error}") from error
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
