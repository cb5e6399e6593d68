"""Parses hand-written YAML, with a single exception type for everything that can be wrong with it."""

import yaml


def parse_yaml(text: str, *, as_text: bool = False) -> object:
    """Parses one YAML (or JSON) document.

    PyYAML lets exceptions of any type escape: ValueError for an invalid date (`2024-13-45`), KeyError for `!!bool x`,
    AttributeError for `!!timestamp x`, RecursionError for deep nesting. A caller that expects only `YAMLError` would
    then fail on one bad file among many.

    Args:
        text: The document.
        as_text: Keeps every scalar as text. Otherwise `1.10` becomes the number 1.1, which is a different version.

    Raises:
        yaml.YAMLError: The document cannot be parsed.
    """
    loader = yaml.BaseLoader if as_text else yaml.SafeLoader
    try:
        return yaml.load(text, Loader=loader)  # noqa: S506  both construct plain values only
    except yaml.YAMLError:
        raise
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except ValueError as error:
        raise yaml.YAMLError(f"a value cannot be read: {error}") from error
    except Exception as error:
        raise yaml.YAMLError(f"a value cannot be read ({type(error).__name__})") from error
