"""The argument parser of the programs ``python -m models.*`` and ``python -m loadtest.*``."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that reports errors in two lines instead of printing the long usage."""

    def error(self, message: str) -> NoReturn:
        """Print the error and a pointer to ``--help``, and exit with code 2."""
        sys.stderr.write(f"{self.prog}: error: {message}\nRun `{self.prog} --help` for usage.\n")
        raise SystemExit(2)
