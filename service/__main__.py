"""Entry point of `python -m service` and of the command `bireal-serve`."""

import sys

from service.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
