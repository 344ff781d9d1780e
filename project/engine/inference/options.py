"""The command lines of `project.evaluate`, `project.predict` and `project.export`."""

import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path

from project.engine.cli.command_parser import CommandParser, output_file, unwritable
from project.engine.inference.inputs import PATH_HELP
from project.engine.tracking.run_reference import RUN_HELP

OF_EVALUATION = (
    "--split, --data, --data.*, --strategy, --devices, --accelerator, --precision, --trainer.*, --model.metrics.*"
)
_PREDICTIONS = "predictions.csv"
"""The table that `project.predict` writes by default if its standard output is a terminal."""

_SUFFIXES = {"mlflow": "", "pt2": ".pt2", "onnx": ".onnx"}
"""The suffix of the file of each format; that of MLflow is a folder."""


def parse_evaluation(argv: Sequence[str]) -> tuple[Namespace, list[str]]:
    """Separate the run and the options of an evaluation from those of data and trainer.

    Raises:
        SystemExit: 2 if an option is malformed; 0 after `--help`.
    """
    parser = CommandParser(
        prog="python -m project.evaluate",
        usage="%(prog)s RUN [--split val|test] [--data NAME] [--devices N] [--strategy NAME] [--register NAME] "
        "[--SETTING VALUE]...",
        description=(
            "Score the best checkpoint of a run: the metrics at the end of fit, those that its task adds, their 95 % "
            f"intervals, and the prediction for each sample. All are added to the run. Other options: {OF_EVALUATION}, "
            "as in project.fit. Exit codes: 0 done, 1 the evaluation failed, 2 bad input, 130 Ctrl-C, 143 SIGTERM."
        ),
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", metavar="RUN", help=RUN_HELP)
    add("--split", choices=["val", "test"], help="the split to score; by default test, or val if there is no test")
    add("--register", metavar="NAME", help=(
        "register the run's model under a name in MLflow; the alias champion moves to it if a paired test on the same "
        "data finds that it is better"
    ))  # fmt: skip
    if argv and argv[0].startswith("-") and not {"-h", "--help"} & set(argv):
        parser.error(f"got {argv[0]} first; give RUN before all options: {RUN_HELP}")
    return parser.parse_known_args(argv)


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
    default = _PREDICTIONS if sys.stdout.isatty() else None
    add("--output", type=output_file((".csv", ".parquet")), default=default, help=(
        f"the table, CSV or Parquet; by default {_PREDICTIONS}, or CSV on standard output if it is a pipe"
    ))  # fmt: skip
    add("--top_k", type=_positive, default=1, help="predictions for each file (default: 1)")
    add("--tta", action="store_true", help="average the probabilities for each image and its mirror image")
    add("--batch_size", type=_positive, help="images per step; by default that of the run")
    add("--workers", type=int, help="threads that load files; by default those of the run")
    add("--accelerator", help="auto, cpu or gpu; by default that of the run")
    add("--precision", help="such as bf16-mixed; by default that of the run")
    return parser.parse_intermixed_args(argv)


def parse_export(argv: Sequence[str]) -> Namespace:
    """Parse the command line of `project.export`; the output is a path at which nothing exists.

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
    add("--format", choices=_SUFFIXES, default="mlflow", help="the kind of model (default: mlflow)")
    add("--output", metavar="PATH", help="the file or folder to write; by default model, with the suffix of its kind")
    add("--images", metavar="PATH", nargs="+", help=f"for the comparison; by default data of the run; {PATH_HELP}")
    options = parser.parse_args(argv)
    suffix = _SUFFIXES[options.format]
    options.output = path = Path(options.output or f"model{suffix}")
    if path.suffix != suffix:
        parser.error(f"--output: got {path}; its suffix must be {suffix or 'absent, because it is a folder'}")
    if path.exists():
        parser.error(f"--output: {path} exists; remove it, or name another one")
    if reason := unwritable(path):
        parser.error(f"--output: {reason}")
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"got {text}; it must be 1 or more")
    return int(text)
