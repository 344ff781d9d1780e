"""The command line of `project.export`."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from project.engine.cli.command_parser import CommandParser
from project.engine.inference.inputs import PATH_HELP
from project.engine.tracking.run_reference import RUN_HELP

SUFFIXES = {"mlflow": "", "pt2": ".pt2", "onnx": ".onnx"}
"""The suffix of the file of each format; that of MLflow is a folder."""

_OUTPUT = "model"


def parse_export(argv: Sequence[str]) -> Namespace:
    """Parse the command line of `project.export`.

    Raises:
        SystemExit: 2 if it is malformed; 0 after `--help`.
    """
    parser = CommandParser(
        prog="python -m project.export",
        usage="%(prog)s RUN [--format mlflow|pt2|onnx] [--output PATH] [--images PATH...]",
        description=(
            "Write the best checkpoint of a run as a model that works without this project, and compare it with the "
            "model in PyTorch. mlflow is a folder for `mlflow models serve`, which takes image files. pt2 and onnx "
            "take uint8 arrays (N, H, W, C) of any size. Exit codes: 0 done, 1 the export failed, or differs from the "
            "model, 2 bad input, 130 Ctrl-C, 143 SIGTERM."
        ),
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", metavar="RUN", help=RUN_HELP)
    add("--format", choices=SUFFIXES, default="mlflow", help="the kind of model (default: mlflow)")
    add(
        "--output",
        metavar="PATH",
        help=f"the file or folder to write; by default {_OUTPUT}, with the suffix of its kind",
    )
    add("--images", metavar="PATH", nargs="+", help=f"for the comparison; by default data of the run; {PATH_HELP}")
    return parser.parse_args(argv)


def output_of(given: str | None, suffix: str) -> Path:
    """Return the path to write.

    Raises:
        ValueError: It has another suffix, or exists.
        OSError: Its folder does not exist.
    """
    path = Path(given or f"{_OUTPUT}{suffix}")
    if path.suffix != suffix:
        raise ValueError(f"--output: got {given}; its suffix must be {suffix or 'absent, because it is a folder'}")
    if path.exists():
        raise FileExistsError(f"--output: {path} exists; remove it, or name another one")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--output: the folder {path.parent} does not exist; create it, or name another one")
    return path
