"""The command line of `project.evaluate`."""

from argparse import Namespace
from collections.abc import Sequence

from project.engine.cli.command_parser import CommandParser
from project.engine.tracking.run_reference import RUN_HELP

REGISTER_HELP = (
    "register the run's model under a name in MLflow; the alias champion moves to it if a paired test on the same data "
    "finds that it is better"
)
OPTIONS = "--split, --data, --data.*, --strategy, --devices, --accelerator, --precision, --trainer.*, --model.metrics.*"


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
            f"intervals, and the prediction for each sample. All are added to the run. Other options: {OPTIONS}, as "
            "in project.fit. Exit codes: 0 done, 1 the evaluation failed, 2 bad input, 130 Ctrl-C, 143 SIGTERM."
        ),
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser.add_argument(
        "--split", choices=["val", "test"], help="the split to score; by default test, or val if there is no test"
    )
    parser.add_argument("--register", metavar="NAME", help=REGISTER_HELP)
    if argv and argv[0].startswith("-") and not {"-h", "--help"} & set(argv):
        parser.error(f"got {argv[0]} first; give RUN before all options: {RUN_HELP}")
    own, options = parser.parse_known_args(argv)
    return own, options
