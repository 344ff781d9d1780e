"""A sweep from its checks to its final table."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import optuna
from filelock import FileLock
from optuna.samplers import GridSampler
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from rich.console import Console

from project.engine.cli import yaml_file
from project.engine.cli.config_groups import DEFAULTS
from project.engine.cli.errors import exit_on_bad_input
from project.engine.inference.registration import ONE_DEVICE, register_trained
from project.engine.runtime.launcher import SLURM
from project.engine.runtime.process import configure_process
from project.engine.runtime.startup import update_activity
from project.engine.search.checks import check_no_overlap, check_one_metric, checked_fit
from project.engine.search.device_pool import devices_for_trials
from project.engine.search.driver import Driver
from project.engine.search.signals import SweepSignals
from project.engine.search.space import SearchSpace
from project.engine.search.storage import PatientStorage, StorageUnavailableError, open_storage
from project.engine.search.study import DONE_STATES, MLFLOW_RUN, RUN_ID, open_study, settings_of_study, training_command
from project.engine.search.study_run import StudyRun
from project.engine.search.sweep_options import SweepOptions
from project.engine.search.trial_process import TrialLauncher
from project.engine.search.trial_queue import TrialQueue
from project.engine.search.trial_results import HopelessError, TrialResults
from project.engine.search.trial_runs import TrialRuns
from project.engine.search.view import View, best_trials, table_of_best
from project.engine.tracking import experiments, store
from project.engine.tracking.logger import MLflowLogger
from project.engine.tracking.recovery import recover_all
from project.engine.tracking.secrets import redact_options
from project.engine.training.header import print_fit
from project.engine.training.registration_checks import check_register


def run(options: SweepOptions, space: SearchSpace) -> int:
    """Check everything, run the trials, and return the exit code."""
    configure_process()  # Lightning sets its own level when it is imported.
    os.environ.pop(SLURM, None)  # SLURM starts the sweep, and the sweep starts the processes of its trials.
    update_activity("checking data, model, search space and store")
    with ExitStack() as stack:
        with exit_on_bad_input():
            sweep = stack.enter_context(open_sweep(options, space))
        code = sweep.run()
        if code != 0 or options.register is None:
            return code
        best = best_trials(sweep.study)
    if not best:
        print("error: --register: no trial is complete, so that no model can be registered", file=sys.stderr)
        return 1
    register_trained(best[0].user_attrs[RUN_ID], options.register, ONE_DEVICE)
    return code


@contextmanager
def open_sweep(options: SweepOptions, space: SearchSpace) -> Iterator["Sweep"]:
    """Check the options of the fit, and open the study for a block of code.

    Raises:
        ValueError, OSError, MisconfigurationException: The input is at fault; the study is not created or changed.
    """
    check_no_overlap(space, options.fit_options)
    built = checked_fit(space, options.fit_options)
    devices = devices_for_trials(built, options.n_jobs)
    client = store.connect()
    if options.register is not None:
        check_one_metric(space)
        check_register(options.register, built, client)
    recover_all(client)
    experiment = experiments.experiment_name(built.config.groups.experiment, built.data.name)
    experiment_id = experiments.experiment_id(client, experiment)
    net = "" if built.net_name in (DEFAULTS["model"], space.path.stem) else built.net_name
    name = options.study or "-".join(filter(None, (experiment, net, space.path.stem)))
    if Path(name).name != name or name == "..":
        raise ValueError(
            f"--study: got {name!r}; it must be a name without slashes, because a folder has the same name"
        )
    settings = settings_of_study(built, space)
    with ExitStack() as stack:
        with FileLock(store.HOME / ".studies.lock"):  # Only one sweep creates the tables and the study.
            storage = stack.enter_context(open_storage(options.storage))
            study = open_study(cast(BaseStorage, storage), name, space, settings)
        if parent := study.user_attrs.get(MLFLOW_RUN):
            experiments.find_run(client, parent)
        logs = store.HOME / "sweeps" / name
        logs.mkdir(parents=True, exist_ok=True)
        lock = FileLock(logs / ".lock")
        runs = TrialRuns(client, experiment_id, study, space.metrics, options.keep_checkpoints)
        # Optuna's grid returns each point once, and refuses a point that it did not return.
        max_retries = 0 if isinstance(space.sampler, GridSampler) else options.max_retries
        queue = TrialQueue(study, space, options.n_trials, lock)
        copies = Path(stack.enter_context(TemporaryDirectory()))
        yaml_file.copy_to(copies, built.command.files)
        launcher = TrialLauncher("project.fit", built.command.argv, space.metrics, devices, runs, logs, copies)
        results = TrialResults(study, space.metrics, runs, max_retries, space.most_trials)
        driver = Driver(study, queue, launcher, results)
        command = shlex.join(["python", "-m", "project.sweep", *redact_options(options.argv)])
        logger = MLflowLogger(experiment, f"study {name}")
        study_run = StudyRun(client, logger, study, space, lock, command, settings)
        print_fit(built)
        yield Sweep(command, space, storage, study, queue, launcher, driver, study_run)


@dataclass
class Sweep:
    """A study with its driver, after all checks and before the first trial.

    Attributes:
        command: The command that continues the study.
        space: The search space.
        storage: The study's storage.
        study: The study.
        queue: The trials to run.
        launcher: Starts trials.
        driver: Runs the trials.
        study_run: The study's MLflow run.
    """

    command: str
    space: SearchSpace
    storage: PatientStorage
    study: optuna.Study
    queue: TrialQueue
    launcher: TrialLauncher
    driver: Driver
    study_run: StudyRun

    def run(self) -> int:
        """Run the trials, and return the exit code."""
        console = Console(highlight=False, markup=False)
        with SweepSignals(self.driver) as signals:
            self.storage.is_stopping = lambda: signals.stops_now
            try:
                return self._run(console, signals)
            except StorageUnavailableError as error:
                console.print(f"interrupted while {error}; continue with: {self.command}", soft_wrap=True)
                return signals.code

    def _run(self, console: Console, signals: SweepSignals) -> int:
        self.study_run.start()
        console.print(self._introduction(), soft_wrap=True)
        code, status = 1, "FAILED"
        try:
            with View(self.study, self.space.metrics, self.queue.n_trials, console) as view:
                try:
                    self.driver.run(lambda: self._show_progress(view))
                    code, status = 0, "FINISHED"
                except HopelessError as error:
                    console.print(f"error: {error}; their output is in\n  {self.launcher.logs}", soft_wrap=True)
                self._show_progress(view)
            if signals.code and not self.queue.has_enough():
                code, status = signals.code, "KILLED"
        except StorageUnavailableError:
            status = "KILLED"
            raise
        finally:
            with suppress(StorageUnavailableError):
                self.study_run.start()  # The sweep that wrote the run may have ended.
            self.study_run.end(status)
        self._report(console, code)
        return code

    def _introduction(self) -> str:
        wanted = self.queue.n_trials
        grid = " (the whole grid)" if wanted == self.space.most_trials else ""
        done = len(self.study.get_trials(deepcopy=False, states=DONE_STATES))
        logs = self.launcher.logs
        return f"study {self.study.study_name}: {done} of {wanted} trials{grid} are done; their output is in\n  {logs}"

    def _show_progress(self, view: View) -> None:
        view.update()
        self.study_run.update()

    def _report(self, console: Console, code: int) -> None:
        if best := best_trials(self.study):
            console.print(table_of_best(self.study, self.space.metrics))
            which = "the best trial" if len(self.space.metrics) == 1 else f"trial {best[0].number}"
            shown = {
                f"run of {which}": best[0].user_attrs[RUN_ID],
                "view": "python -m project.ui",
                f"train with the settings of {which}": training_command(best[0]),
            }
            for label, text in shown.items():
                console.print(f"{label}\n  {text}", soft_wrap=True)
        if code not in (0, 1):
            left = len(self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]))
            unfinished = f"; unfinished trials: {left}" if left else ""
            console.print(f"interrupted{unfinished}; continue with: {self.command}", soft_wrap=True)
