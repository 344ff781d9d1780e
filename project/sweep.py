"""Search hyper-parameters with Optuna: parallel trials, each a child run of the study's MLflow run.

python -m project.sweep --search cnn --n_trials 8 --n_jobs 2
python -m project.sweep --search cnn --n_trials 20 --study digits-cnn --data mnist --max_epochs 3
"""

import sys
from argparse import ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from typing import get_args

from project.engine.runtime.startup import begin_command

if __name__ == "__main__":
    begin_command("loading torch, lightning and optuna")

from project.engine.cli import config_groups
from project.engine.cli.command_line import CommandLine
from project.engine.cli.command_parser import CommandParser
from project.engine.cli.errors import exit_on_bad_input
from project.engine.cli.help import choices
from project.engine.cli.known_options import check_early
from project.engine.compat import preloaded_forkserver
from project.engine.runtime.exit import exit_without_teardown
from project.engine.runtime.process import configure_process
from project.engine.search.sweep_options import NAMES, Keep, SweepOptions, check_no_space_key

_KEEP = get_args(Keep)
_STORAGE = "sqlite:///mlruns/optuna.db"
_DESCRIPTION = """\
Search hyper-parameters with Optuna. Options of project.fit apply to each trial.

  python -m project.sweep --search cnn
  python -m project.sweep --search cnn --n_trials 20 --n_jobs 2 --max_epochs 5
  python -m project.sweep --search cnn --data mnist --study mnist-cnn"""
_MORE = """\
  python -m project.fit --help        the options of data and model
  python -m project.fit --help all    every option of fit"""


def main(argv: Sequence[str]) -> None:
    """Exit with 2 on bad input, 1 if the trials fail, 130 or 143 if interrupted."""
    configure_process()
    own, fit_options = _parser().parse_known_args(argv)
    with exit_on_bad_input():
        check_no_space_key(fit_options)
        check_early(CommandLine.parse(fit_options, NAMES))
        search = config_groups.search_file(own.search)
        import optuna  # Here, because `--help` does not need it.

        from project.engine.search.space import check_values, read_space

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        space = read_space(search)
        check_values(space, lambda varied: check_early(CommandLine.parse([*fit_options, *varied], NAMES)))
    options = SweepOptions(argv=argv, fit_options=fit_options, **vars(own))
    with preloaded_forkserver("project.engine.search.preload"):
        from project.engine.search.job import run  # imported here, while the forkserver imports the same

        sys.exit(run(options, space))


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m project.sweep",
        usage="%(prog)s --search NAME [--OPTION VALUE]...",
        description=_DESCRIPTION,
        epilog=f"{choices()}\n\nmore:\n{_MORE}",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add, spaces = parser.add_argument, config_groups.choices("search")
    add("--search", metavar="NAME", help=f"search space in configs/search/: {', '.join(spaces)}; or a YAML file")
    add(
        "--n_trials",
        type=_at_least(1),
        default=8,
        help="total number of trials, including earlier sweeps of the study (default: 8)",
    )
    add("--n_jobs", type=_at_least(1), default=1, help="number of trials that run at the same time (default: 1)")
    add(
        "--max_retries",
        type=_at_least(0),
        default=1,
        help="maximum number of repetitions of a failed trial (default: 1)",
    )
    add("--study", help=(
        "name of the study; an existing study is continued (default: EXPERIMENT-SEARCH, or "
        "EXPERIMENT-MODEL-SEARCH with another model than cnn)"
    ))  # fmt: skip
    add("--keep_checkpoints", choices=_KEEP, default=_KEEP[0], help=(
        "checkpoints to keep when trials end: the best weights of each complete trial, or all checkpoints of all "
        "trials, which --resume needs (weights)"
    ))  # fmt: skip
    add("--register", metavar="NAME", help=(
        "register the model of the best trial in MLflow; the alias champion moves to it if a paired test on the same "
        "data finds that it is better"
    ))  # fmt: skip
    add("--storage", default=_STORAGE, help=f"URL of the Optuna storage ({_STORAGE})")
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < least:
            raise ArgumentTypeError(f"got {text}; it must be a whole number, {least} or more")
        return int(text)

    return number


if __name__ == "__main__":
    with exit_without_teardown():
        main(sys.argv[1:])
