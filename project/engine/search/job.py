"""A sweep from its checks to its last table."""

import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import optuna
import torch
from filelock import FileLock
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from rich.console import Console

from project.engine.cli import config_groups
from project.engine.cli.errors import exit_on_bad_input
from project.engine.cli.fit_cli import FitCLI, flatten
from project.engine.cli.terminal import quiet
from project.engine.runtime.devices import usable_cores
from project.engine.search.checks import check_no_overlap, checked_fit
from project.engine.search.device_pool import Devices, gpu_ids
from project.engine.search.driver import DONE, Driver, HopelessError
from project.engine.search.signals import Signals
from project.engine.search.space import SearchSpace, options, read_space
from project.engine.search.storage import StorageAwayError, open_storage
from project.engine.search.study import open_study
from project.engine.search.study_run import MLFLOW_RUN, StudyRun
from project.engine.search.trial_runs import TrialRuns
from project.engine.search.view import View, best_trials, table_of_best
from project.engine.search.worker import Assignment
from project.engine.tracking import store
from project.engine.tracking.logger import MLflowLogger
from project.engine.tracking.recovery import RECOVERED, is_held, recover_all
from project.engine.tracking.secrets import redact_options, redact_setting
from project.engine.training.restarts import RESTART_OF

_MODULE = "project.fit"
_OF_NO_CONSEQUENCE = (".root", ".workers.num", ".enable_progress_bar", ".enable_model_summary", ".log_every_n_steps")


def run(asked: Namespace, fit_options: Sequence[str]) -> int:
    """Check everything, run the trials, and say how it ended.

    Args:
        asked: Options of the sweep.
        fit_options: Options that all trials share.

    Returns:
        The exit code.
    """
    quiet()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with exit_on_bad_input():
        sweep = Sweep(asked, fit_options)
    return sweep.run()


class Sweep:
    """A study, checked before any trial starts.

    Args:
        asked: Options of the sweep.
        fit_options: Options that all trials share.

    Raises:
        ValueError, OSError, MisconfigurationException: The input is at fault; there is no study yet.
    """

    def __init__(self, asked: Namespace, fit_options: Sequence[str]) -> None:
        self.space = read_space(config_groups.file_of("search", asked.search))
        check_no_overlap(self.space, fit_options)
        built = checked_fit(self.space, fit_options)
        print("\n".join(built.datamodule.found()), flush=True)
        self._fit_options = built.argv
        gpus: list[str] = []
        if built.trainer.strategy.root_device.type == "cuda":
            gpus = gpu_ids(os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count())
            if not str(devices := built.config.trainer.devices).isdigit() and devices != "auto":
                raise ValueError(
                    f"--devices: got {devices}, but a sweep assigns GPUs itself; give their number per trial, and name "
                    "the GPUs to use in CUDA_VISIBLE_DEVICES"
                )
        self._devices = Devices(asked.n_jobs, built.trainer.num_devices, usable_cores(), gpus)
        self._client = store.connect()
        recover_all(self._client)
        experiment = store.experiment_name(built.config.groups.experiment, built.datamodule.name)
        experiment_id = store.experiment_id(self._client, experiment)
        self._settings = _settings(built, self.space)
        name = asked.study or f"{experiment}-{asked.search}"
        if Path(name).name != name or name == "..":
            raise ValueError(
                f"--study: got {name!r}; it must be a name without slashes, because a folder has the same name"
            )
        with FileLock(store.HOME / ".studies.lock"):
            self._storage = open_storage(asked.storage)
            self.study = open_study(cast(BaseStorage, self._storage), name, self.space, self._settings)
        if parent := self.study.user_attrs.get(MLFLOW_RUN):
            store.find_run(self._client, parent)
        self._trial_runs = TrialRuns(
            self._client, experiment_id, self.study, self.space.metrics, asked.keep_checkpoints
        )
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

    def _assignment(
        self, parameters: Mapping[str, Any], number: int, run_id: str | None, lent: dict[str, str], threads: int
    ) -> Assignment:
        environment = self._trial_runs.environment(number) | {"MLFLOW_TRACKING_URI": store.tracking_uri(), **lent}
        environment[RECOVERED] = "by the sweep"
        if run_id:
            environment[RESTART_OF] = run_id
        argv = [*self._fit_options, *options(parameters)]
        return Assignment(_MODULE, argv, self.space.metrics, environment, threads, self._log / f"trial-{number}.log")

    def run(self) -> int:
        """Run the trials; the exit code says how it ended."""
        console = Console(highlight=False, markup=False)
        signals = Signals(self.driver)
        signals.listen()
        self._storage.is_stopping = lambda: signals.stops_now
        try:
            return self._run(console, signals)
        except StorageAwayError as error:
            console.print(f"interrupted while {error}; continue with: {self._command()}", soft_wrap=True)
            return signals.code

    def _run(self, console: Console, signals: Signals) -> int:
        self._follow()
        console.print(self._beginning(), soft_wrap=True)
        code, status = 1, "FAILED"
        try:
            with View(self.study, self.space.metrics, self.driver.n_trials, console) as view:
                try:
                    self.driver.run(lambda: self._look(view))
                    code, status = 0, "FINISHED"
                except HopelessError as error:
                    console.print(f"error: {error}; their output is in {self._log}", soft_wrap=True)
                self._look(view)
            if signals.code and not self.driver.enough():
                code, status = signals.code, "KILLED"
        except StorageAwayError:
            status = "KILLED"
            raise
        finally:
            with suppress(StorageAwayError):
                self._follow()  # another sweep may have had it, and have ended
            if self._study_run:
                self._study_run.end(status)
        self._report(console, code)
        return code

    def _beginning(self) -> str:
        wanted = self.driver.n_trials
        of_grid = " (the whole grid)" if wanted == self.space.most_trials else ""
        done = len(self.study.get_trials(deepcopy=False, states=DONE))
        return (
            f"study {self.study.study_name}: {done} of {wanted} trials{of_grid} are done; they print into {self._log}"
        )

    def _follow(self) -> None:
        """Take the study's run, unless another sweep on this study has it."""
        with self._lock:
            parent = self.study.user_attrs.get(MLFLOW_RUN)
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
            console.print(f"its run: {best[0].user_attrs['run_id']}; view it with python -m project.ui", soft_wrap=True)
        if code not in (0, 1):
            left = len(self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]))
            waiting = f", {left} of its trials are unfinished" if left else ""
            console.print(f"interrupted{waiting}; continue with: {self._command()}", soft_wrap=True)

    @staticmethod
    def _command() -> str:
        return shlex.join(["python", "-m", "project.sweep", *redact_options(sys.argv[1:])])


def _settings(built: FitCLI, space: SearchSpace) -> dict[str, str]:
    """What all trials share; a study that has other settings is another study."""
    ranges = {f"search.{key}": str(d) for key, d in space.distributions.items()}
    fixed = {
        key: redact_setting(key, str(value))
        for key, value in flatten(built.config).items()
        if key not in space.distributions and not key.endswith(_OF_NO_CONSEQUENCE)
    }
    return {"search.metric": str(space.directions), **ranges, **fixed, "data.digest": built.datamodule.digest()}
