"""The process of a trial: its start, its messages and its end."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import optuna

from project.engine.cli import yaml_file
from project.engine.search.device_pool import Devices
from project.engine.search.messages import Outcome
from project.engine.search.space import fit_options
from project.engine.search.trial_runs import TrialRuns
from project.engine.search.worker import run_trial
from project.engine.tracking import store
from project.engine.tracking.recovery import RECOVERED
from project.engine.training.restarts import RESTART_OF


@dataclass
class TrialProcess:
    """A trial and the process that trains it.

    Attributes:
        trial: The trial.
        process: The process.
        connection: Pipe for messages, both ways.
        share: Environment variables that give the trial its part of the machine.
        outcome: The process's report of how the training ended; None before, or if it died without one.
    """

    trial: optuna.Trial
    process: BaseProcess
    connection: Connection
    share: dict[str, str]
    outcome: Outcome | None = None

    def exit_reason(self) -> str:
        """Describe how the process ended."""
        code = self.process.exitcode or 0
        return f"its process was killed by signal {-code}" if code < 0 else f"its process ended with code {code}"


@dataclass(frozen=True)
class TrialLauncher:
    """The launcher of the processes of a study's trials.

    Attributes:
        module: Module whose `main(argv, callbacks)` trains.
        argv: Options that all trials share.
        metrics: The study's metrics.
        devices: The parts of the machine.
        runs: The trials' MLflow runs.
        logs: Folder for the output of trials.
        settings: Folder with copies of the YAML files of the settings.
    """

    module: str
    argv: Sequence[str]
    metrics: Sequence[str]
    devices: Devices
    runs: TrialRuns
    logs: Path
    settings: Path

    def launch(self, trial: optuna.Trial, run_id: str | None) -> TrialProcess:
        """Start the process of a trial. There must be a free part of the machine.

        Args:
            trial: The trial; it has all its parameters.
            run_id: MLflow run to resume, or None.
        """
        share = self.devices.acquire()
        context = get_context("forkserver")
        ours, theirs = context.Pipe()
        work = partial(
            run_trial, theirs,
            module=self.module, argv=[*self.argv, *fit_options(trial.params)], metrics=self.metrics,
            environment=self._environment(trial, run_id) | share, threads=self.devices.threads,
            log=self.logs / f"trial-{trial.number}.log",
        )  # fmt: skip
        process = context.Process(target=work, name=f"trial {trial.number}")
        process.start()
        theirs.close()
        return TrialProcess(trial, process, ours, share)

    def release(self, ended: TrialProcess) -> None:
        """Wait for the end of a process that has closed its pipe, and free its part of the machine."""
        ended.process.join()
        ended.connection.close()
        self.devices.release(ended.share)

    def _environment(self, trial: optuna.Trial, run_id: str | None) -> dict[str, str]:
        # The server that forks the process may have started with another environment.
        environment = {**os.environ, **self.runs.environment(trial.number)}
        environment["MLFLOW_TRACKING_URI"] = store.tracking_uri()
        environment[RECOVERED] = "by the sweep"
        environment[yaml_file.COPIES] = str(self.settings)
        environment[RESTART_OF] = run_id or ""
        return environment
