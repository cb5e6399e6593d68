"""The command-line parser, and the one place where its errors are printed.

An error is one sentence on standard error and exit code 2. With `--json`, standard output carries exactly one JSON
document, also for an error. Progress bars and everything else go to standard error.
"""

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from service.app import service_version
from service.cli import outputs
from service.cli.compare import MARGIN, compare
from service.cli.evaluate import evaluate
from service.cli.failure import Parser, fail
from service.cli.logs import pass_over_damaged_metadata
from service.cli.models import models
from service.cli.predict import predict
from service.cli.serve import serve
from service.client import ClientError
from service.client.calls import checked_url
from service.errors import ServiceError
from service.evaluation import DataError
from service.settings import Settings, add_arguments, load_settings, settings_overrides, unknown_variables

Command = Callable[[Settings, argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"  # noqa: SLF001  it has no other name

INTERRUPTED = 130

# The settings that offline commands accept; all others concern serving clients.
_OFFLINE_SETTINGS = ("model_dir", "fallback", "kernel", "max_pixels", "decode_threads", "intra_op_threads", "workers")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit code: 0, 1 (some failures were reported), 2 (an error) or 130 (Ctrl-C)."""
    outputs.prepare()
    try:
        return _main(argv)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            print("interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        outputs.finish()


def _main(argv: Sequence[str] | None) -> int:
    Parser.as_json = "--json" in (sys.argv[1:] if argv is None else argv)
    parser = _parser()
    arguments = parser.parse_args(argv)
    if getattr(arguments, "key_file", None) is not None and arguments.url is None:
        parser.error("--key-file requires --url: it holds the key of a running service")
    if getattr(arguments, "url", None) is not None:
        given = next((name for name in _OFFLINE_SETTINGS if getattr(arguments, name) is not None), None)
        if given is not None:
            parser.error(f"--{given.replace('_', '-')} is for local networks and has no effect with --url")
    command: Command = arguments.command
    if command is not serve:  # the other commands print their own errors, which the log would only repeat
        logging.basicConfig(level=logging.CRITICAL)
        pass_over_damaged_metadata()
        with contextlib.suppress(OSError):  # a full or closed standard error must not end the command
            for sentence in unknown_variables():
                print(f"warning: {sentence}", file=sys.stderr)
    try:
        code = command(load_settings(settings_overrides(arguments)), arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has stopped reading
        outputs.drop(sys.stdout)
        return 0
    except (ServiceError, DataError, ClientError, OSError) as error:
        return fail(error, as_json=arguments.json)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="bireal-serve", description="Serves Bi-Real Net, 1-bit CNNs, alongside their full-precision twins."
    )
    parser.add_argument("--version", action="version", version=service_version())
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    for add in (_add_serve, _add_predict, _add_compare, _add_evaluate, _add_models):
        add(commands)
    return parser


def _add_serve(commands: Commands) -> None:
    parser = _command(commands, "serve", serve, "serve the models over HTTP until stopped by a signal")
    add_arguments(parser)


def _add_predict(commands: Commands) -> None:
    parser = _command(commands, "predict", predict, "run a network on image files")
    parser.add_argument("images", nargs="+", type=_path, metavar="PATH", help="an image, or a folder of images")
    parser.add_argument("--task", choices=("classify", "depth"), help="default: that of --model, else classify")
    _network(parser)
    parser.add_argument("--fx", type=_focal, metavar="PIXELS", help="depth: focal length of your camera")
    parser.add_argument(
        "--size", choices=("network", "original"), default="network", help="depth: size of the map (default: network)"
    )
    parser.add_argument(
        "--output",
        "--out",
        type=Path,
        metavar="FILE",
        help="depth: write the map to this file: .png (in colour), .png16.png (metres x 256), .npy (metres), .ply "
        "(point cloud) or .json (figures)",
    )
    _service(parser)
    add_arguments(parser, (*_OFFLINE_SETTINGS, "top_k", "min_probability"))


def _add_compare(commands: Commands) -> None:
    parser = _command(commands, "compare", compare, "compare two variants on an image or a folder of images")
    parser.add_argument(
        "path", type=_path, metavar="PATH", help="an image, or a folder; with labels: <wnid or name>/<image>"
    )
    parser.add_argument(
        "--task", choices=("classify", "depth"), help="default: that of --model, else depth if PATH has left/"
    )
    parser.add_argument("--model", help="a binary model (default: the task's default model)")
    parser.add_argument("--a", default="binary", metavar="VARIANT", help="the first variant (default: binary)")
    parser.add_argument("--b", default="full", metavar="VARIANT", help="the second variant (default: full)")
    parser.add_argument("--fx", type=_focal, metavar="PIXELS", help="depth: focal length of your camera")
    parser.add_argument("--limit", type=_positive, metavar="N", help="use at most N images, evenly spread")
    parser.add_argument(
        "--margin",
        type=_fraction,
        metavar="FRACTION",
        help=f"largest acceptable loss of accuracy of A against B (default: {MARGIN:g}, two percentage points)",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE.html", help="write a report with plots, and its figures to FILE.json"
    )
    _service(parser)
    add_arguments(parser, (*_OFFLINE_SETTINGS, "top_k"))


def _add_evaluate(commands: Commands) -> None:
    parser = _command(commands, "evaluate", evaluate, "measure the accuracy on a folder with ground truth")
    parser.add_argument(
        "--data",
        dest="folder",
        required=True,
        type=Path,
        metavar="DIR",
        help="images as <class>/<image>, where <class> is a WordNet id or a name; or road scenes as left/ with "
        "lidar_depth/ or disp_noc_0/ and, optionally, calib.json",
    )
    parser.add_argument(
        "--task", choices=("classify", "depth"), help="default: that of --model, else depth if DIR has left/"
    )
    _network(parser)
    parser.add_argument(
        "--against",
        metavar="[MODEL:]VARIANT",
        help="depth: also compute the paired difference from this network (MODEL defaults to --model)",
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="use at most N images, evenly spread")
    _service(parser)
    add_arguments(parser, _OFFLINE_SETTINGS)


def _add_models(commands: Commands) -> None:
    parser = _command(commands, "models", models, "load every model and show what runs on this machine")
    add_arguments(parser, _OFFLINE_SETTINGS)


def _command(commands: Commands, name: str, command: Command, text: str) -> argparse.ArgumentParser:
    # No abbreviations: `--api-keys` is not an option, and argparse must not take it for `--api-keys-file`.
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
    parser.set_defaults(command=command)
    parser.add_argument("--json", action="store_true", help="print one JSON document on standard output")
    return parser


def _network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="NAME or NAME@VERSION (default: the task's default model)")
    parser.add_argument("--variant", help="binary, reference or full (default: the configured default variant)")


def _service(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", type=_url, help="use the running service at this address instead of loading models")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="with --url: a file with the service's API key")


def _positive(text: str) -> int:
    value = int(text) if text.isascii() and text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def _path(text: str) -> Path:
    if not text:  # pathlib would read it as the current folder, which an unset "$VARIABLE" does not mean
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def _url(text: str) -> str:
    try:
        checked_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a fraction above 0 and at most 1")
    return value


def _focal(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a focal length in pixels from 1 to 1000000")
    return value
