"""The parser of the programs that are run as ``python -m models.*`` and ``python -m loadtest.*``."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """argparse's, whose errors are two lines in place of a usage that is longer than the screen."""

    def error(self, message: str) -> NoReturn:
        """Says what is wrong and where to read on, and ends the program with exit code 2."""
        sys.stderr.write(f"{self.prog}: error: {message}\n`{self.prog} --help` says what there is.\n")
        raise SystemExit(2)
