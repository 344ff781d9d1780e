"""Search hyper-parameters with Optuna: parallel trials, each a child run of the study's MLflow run.

python -m project.sweep --search cnn --n_trials 8 --n_jobs 2
python -m project.sweep --search cnn --n_trials 20 --study digits-cnn --data mnist --max_epochs 3
"""

import os
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from project import groups
from project.cli import FitCLI, flatten
from project.errors import answered
from project.launch.devices import usable_cores
from project.launch.restarts import RESTART_OF
from project.search.devices import Devices, gpu_ids
from project.search.driver import Driver, HopelessError, start_preloading
from project.search.signals import Signals
from project.search.space import SearchSpace, check_metrics, check_values, options, read_space
from project.search.study_run import RUN, StudyRun
from project.search.trial_runs import TrialRuns
from project.search.view import View, best_trials, table_of_best
from project.search.worker import Assignment
from project.terminal import quiet
from project.tracking import store
from project.tracking.logger import MLflowLogger
from project.tracking.recovery import is_held, recover_all
from project.tracking.secrets import redact, redact_options, redact_setting

_MODULE = "project.fit"
_MONITORS = ("val/accuracy", "val/loss")
_OF_NO_CONSEQUENCE = (".root", ".num_workers", ".enable_progress_bar", ".enable_model_summary", ".log_every_n_steps")
_OF_THE_SWEEP = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes")


def main(argv: Sequence[str]) -> None:
    """Exit with 2 on bad input, 1 when the trials fail, 130 or 143 when interrupted."""
    quiet()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    asked, fit_options = _parser().parse_known_args(argv)
    with answered():
        sweep = Sweep(asked, fit_options)
    console = Console(highlight=False, markup=False)
    sys.exit(sweep.run(console))


class Sweep:
    """A study, checked before any trial starts.

    Args:
        asked: Options of the sweep.
        fit_options: Options that all trials share.

    Raises:
        ValueError, OSError, MisconfigurationException: The input is at fault; there is no study yet.
    """

    def __init__(self, asked: Namespace, fit_options: Sequence[str]) -> None:
        self.n_trials, self._fit_options = asked.n_trials, fit_options
        for option, value, least in (
            ("n_trials", asked.n_trials, 1),
            ("n_jobs", asked.n_jobs, 1),
            ("max_retries", asked.max_retries, 0),
        ):
            if value < least:
                raise ValueError(f"--{option}: got {value}; it must be {least} or more")
        self.space = _space(asked.search)
        _check_no_overlap(self.space, fit_options)
        start_preloading(["project.preload"])  # which takes as long as the checks that follow
        built = FitCLI(fit_options)
        if (metric := self.space.metrics[0]) in _MONITORS and metric != built.config.checkpoint.monitor:
            # The model that a trial keeps is the one that it is judged by.
            self._fit_options = fit_options = [f"--checkpoint.monitor={metric}", *fit_options]
            built = FitCLI(fit_options)
        _load(built)
        check_values(self.space, lambda extra: _check_trial(fit_options, extra))
        check_metrics(self.space, built.datamodule.has_test, lambda: _logged(fit_options))
        gpus: list[str] = []
        if built.trainer.strategy.root_device.type == "cuda":
            gpus = gpu_ids(os.environ.get("CUDA_VISIBLE_DEVICES"))
            if not str(devices := built.config.trainer.devices).isdigit() and devices != "auto":
                raise ValueError(
                    f"--devices: got {devices}; a sweep lends GPUs itself: give their number for a trial, and name "
                    "those that it may lend in CUDA_VISIBLE_DEVICES"
                )
        self._devices = Devices(asked.n_jobs, built.trainer.num_devices, usable_cores(), gpus)
        self._client = store.connect()
        recover_all(self._client)
        experiment = built.config.groups.experiment or built.datamodule.name
        experiment_id = store.experiment_id(self._client, experiment)
        with FileLock(store.HOME / ".studies.lock"):
            self.study, self._settings = self._open_study(asked, built)
        if parent := self.study.user_attrs.get(RUN):
            store.find_run(self._client, parent)
        self._trial_runs = TrialRuns(self._client, experiment_id, self.study, self.space.metrics)
        self._logger = MLflowLogger(experiment, f"study {self.study.study_name}")
        self._study_run: StudyRun | None = None
        self._log = store.HOME / "sweeps" / self.study.study_name
        self._log.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self._log / ".lock")
        # Optuna's grid gives each of its points once, and does not take one that it did not give.
        max_retries = 0 if isinstance(self.space.sampler, optuna.samplers.GridSampler) else asked.max_retries
        self.driver = Driver(
            self.study, self.space, self._assignment, self._devices, asked.n_trials, max_retries,
            self._lock, self._trial_runs,
        )  # fmt: skip

    def _open_study(self, asked: Namespace, built: FitCLI) -> tuple[optuna.Study, dict[str, Any]]:
        """Make the study, or go on with it if it searches the same."""
        ranges = {f"search.{key}": str(d) for key, d in self.space.distributions.items()}
        fixed = {
            key: redact_setting(key, str(value))
            for key, value in flatten(built.config).items()
            if key not in self.space.distributions and not key.endswith(_OF_NO_CONSEQUENCE)
        }
        settings = {
            "search.metric": str(self.space.directions), **ranges, **fixed, "data.digest": built.datamodule.digest()
        }  # fmt: skip
        name = asked.study or f"{built.config.groups.experiment or built.datamodule.name}-{asked.search}"
        try:
            study = optuna.create_study(
                storage=asked.storage, study_name=name, directions=list(self.space.directions.values()),
                sampler=self.space.sampler, pruner=self.space.pruner, load_if_exists=True,
            )  # fmt: skip
        except (SQLAlchemyError, StorageInternalError, ImportError) as error:
            reason = redact(str(error).splitlines()[0])
            raise ValueError(f"--storage: cannot open {redact(asked.storage)} for Optuna: {reason}") from error
        directions = [direction.name.lower() for direction in study.directions]
        if directions != list(self.space.directions.values()):
            raise ValueError(f"--study: {name} is to {', '.join(directions)}; name another study with --study")
        before = study.user_attrs.get("settings")
        if before is None:
            study.set_user_attr("settings", settings)
        elif different := sorted(before.items() ^ settings.items()):
            key = different[0][0]
            raise ValueError(
                f"--study: {name} has {key} {before.get(key)}, but this sweep has {settings.get(key)}; name another "
                "study with --study, or leave the options as they were"
            )
        else:
            study.sampler.reseed_rng()  # its first draws are in the study already
        return study, settings

    def _assignment(
        self, parameters: Mapping[str, Any], number: int, run_id: str | None, lent: dict[str, str], threads: int
    ) -> Assignment:
        environment = self._trial_runs.environment(number) | {"MLFLOW_TRACKING_URI": store.tracking_uri(), **lent}
        if run_id:
            environment[RESTART_OF] = run_id
        argv = [*self._fit_options, *options(parameters)]
        return Assignment(_MODULE, argv, self.space.metrics, environment, threads, self._log / f"trial-{number}.log")

    def run(self, console: Console) -> int:
        """Run the trials; the exit code says how it ended."""
        signals = Signals(self.driver)
        signals.listen()
        self._follow()
        code, status = 1, "FAILED"
        try:
            with View(self.study, self.space.metrics, self.n_trials, console) as view:
                try:
                    self.driver.run(lambda: self._look(view))
                    code, status = 0, "FINISHED"
                except HopelessError as error:
                    console.print(f"error: {error}; their output is in {self._log}", soft_wrap=True)
                self._look(view)
            if signals.code and not self.driver.enough():
                code, status = signals.code, "KILLED"
        finally:
            self._follow()  # another sweep may have had it, and have ended
            if self._study_run:
                self._study_run.end(status)
        self._report(console, code)
        return code

    def _follow(self) -> None:
        """Take the study's run, unless another sweep on this study has it."""
        with self._lock:
            parent = self.study.user_attrs.get(RUN)
            if self._study_run is None and (parent is None or not is_held(parent)):
                self._study_run = StudyRun(self._client, self._logger, self.study, self.space)
                self._study_run.start(self._command(), self._settings)

    def _look(self, view: View) -> None:
        view.look()
        if self._study_run:
            self._study_run.look()

    def _report(self, console: Console, code: int) -> None:
        if best := best_trials(self.study):
            console.print(table_of_best(self.study, self.space.metrics))
            again = shlex.join(["python", "-m", _MODULE, *self._fit_options, *options(best[0].params)])
            which = "the best one" if len(self.space.metrics) == 1 else f"trial {best[0].number}"
            console.print(f"train {which} again:\n{again}", soft_wrap=True)
        if code not in (0, 1):
            console.print(f"interrupted; go on with: {self._command()}", soft_wrap=True)

    @staticmethod
    def _command() -> str:
        return shlex.join(["python", "-m", "project.sweep", *redact_options(sys.argv[1:])])


def _check_no_overlap(space: SearchSpace, fit_options: Sequence[str]) -> None:
    given = {option.partition("=")[0].removeprefix("--").removeprefix("trainer.") for option in fit_options}
    for key in space.distributions:
        if key.removeprefix("trainer.") in given:
            raise ValueError(f"--{key}: got a value for it, but --search varies it; leave one of them out")
        if key in _OF_THE_SWEEP:
            raise ValueError(f"--search: {key} cannot be varied, as all trials get the same share of the machine")


def _check_trial(fit_options: Sequence[str], extra: Sequence[str]) -> None:
    cli = FitCLI([*fit_options, *extra])
    if any(option.startswith("--data.") for option in extra):
        _load(cli)


def _load(cli: FitCLI) -> None:
    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    cli.datamodule.check_batch_size(cli.trainer.world_size)


def _logged(fit_options: Sequence[str]) -> list[str]:
    """Names of the metrics that a fit logs, seen in one batch on the CPU."""
    small = ["--trainer.fast_dev_run=1", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]
    anywhere = ["--trainer.strategy=auto", "--trainer.accelerator=cpu", "--devices=1", "--precision=32-true"]
    cli = FitCLI([*fit_options, *small, *anywhere])
    cli.trainer.fit(cli.model, cli.datamodule)
    return list(cli.trainer.callback_metrics)


def _space(name: str) -> SearchSpace:
    if name not in groups.choices("search"):
        raise ValueError(f"--search: got {name!r}; configs/search has {', '.join(groups.choices('search'))}")
    return read_space(groups.CONFIGS / "search" / f"{name}.yaml")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m project.sweep",
        usage="%(prog)s --search NAME [--n_trials N] [--n_jobs J] [--study NAME] [--OPTION_OF_FIT VALUE]...",
        description="Search hyper-parameters; every option of project.fit is handed to each trial.",
        allow_abbrev=False,
    )
    names = ", ".join(groups.choices("search"))
    storage = f"sqlite:///{store.HOME}/optuna.db"
    parser.add_argument("--search", required=True, metavar="NAME", help=f"a file of configs/search/: {names}")
    parser.add_argument("--n_trials", type=int, default=8, help="trials in all, those of earlier sweeps included (8)")
    parser.add_argument("--n_jobs", type=int, default=1, help="trials at a time (1)")
    parser.add_argument("--max_retries", type=int, default=1, help="how often a failed trial is run again (1)")
    parser.add_argument("--study", help="its name; one that exists is continued (DATA-SEARCH)")
    parser.add_argument("--storage", default=storage, help=f"Optuna storage ({storage})")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
