"""The command line of `project.predict`."""

import os
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path

from project.engine.cli.command_parser import CommandParser
from project.engine.inference.inputs import PATH_HELP
from project.engine.tracking.run_reference import RUN_HELP

_OUTPUT, _SUFFIXES = Path("predictions.csv"), (".csv", ".parquet")


def output_of(given: str | None) -> Path | None:
    """Return the file to write; None for standard output.

    Raises:
        ValueError: The file has another suffix.
        OSError: Its folder does not exist.
    """
    if given is None:
        return _OUTPUT if sys.stdout.isatty() else None
    path = Path(given)
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"--output: got {given}; its suffix must be one of {', '.join(_SUFFIXES)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--output: the folder {path.parent} does not exist; create it, or name another file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"--output: cannot write {given}; change its permissions, or name another file")
    return path


def parse_prediction(argv: Sequence[str]) -> Namespace:
    """Parse the command line of `project.predict`.

    Raises:
        SystemExit: 2 if it is malformed; 0 after `--help`.
    """
    parser = CommandParser(
        prog="python -m project.predict",
        usage="%(prog)s RUN PATH... [--output FILE.csv|.parquet] [--top_k K] [--tta] [--OPTION VALUE]...",
        description=(
            "Predict image files with the best checkpoint of a run, as its validation loads them. A file that cannot "
            "be read becomes a row with its error. Exit codes: 0 all files have a prediction, 1 some files cannot be "
            "read, 2 bad input, 130 Ctrl-C, 143 SIGTERM."
        ),
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", metavar="RUN", help=RUN_HELP)
    add("paths", metavar="PATH", nargs="*", help=PATH_HELP)
    add("--output", help=f"the table, CSV or Parquet; by default {_OUTPUT}, or CSV on standard output if it is a pipe")
    add("--top_k", type=_positive, default=1, help="predictions for each file (default: 1)")
    add("--tta", action="store_true", help="average the probabilities for each image and its mirror image")
    add("--batch_size", type=_positive, help="images per step; by default that of the run")
    add("--workers", type=int, help="threads that load files; by default those of the run")
    add("--accelerator", help="auto, cpu or gpu; by default that of the run")
    add("--precision", help="such as bf16-mixed; by default that of the run")
    return parser.parse_intermixed_args(argv)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"got {text}; it must be 1 or more")
    return int(text)
