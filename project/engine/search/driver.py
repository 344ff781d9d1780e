"""The loop of a sweep: it starts trials, receives their messages and records their results."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from time import monotonic

import optuna
import psutil
from optuna.exceptions import UpdateFinishedTrialError

from project.engine.search.messages import FromTrial, Prune, Report, RunStarted, Stop, Stopped, send
from project.engine.search.ownership import HEARTBEAT_EVERY_S, claim, name_worker
from project.engine.search.study import set_run
from project.engine.search.trial_process import TrialLauncher, TrialProcess
from project.engine.search.trial_queue import TrialQueue
from project.engine.search.trial_results import HopelessError, TrialResults
from project.engine.tracking.recovery import recover_run

_log = logging.getLogger(__name__)

_WAIT_S = 0.5
_STOPS_WITHIN_S = 30.0


class Driver:
    """The driver of a sweep, which keeps one trial running on each part of the machine until the study has enough.

    Args:
        study: The study. All states of trials are in its storage.
        queue: Returns the next trial.
        launcher: Starts the processes of trials.
        results: Records how trials end.

    Attributes:
        running: The trials that run, with their processes.
        finishing: Whether to start no more trials.
        stopping: Whether to stop running trials.
    """

    def __init__(self, study: optuna.Study, queue: TrialQueue, launcher: TrialLauncher, results: TrialResults) -> None:
        self._study, self._queue, self._launcher, self._results = study, queue, launcher, results
        self.running: list[TrialProcess] = []
        self.finishing = self.stopping = False
        self._last_heartbeat = monotonic()

    def run(self, show_progress: Callable[[], None]) -> None:
        """Run trials until there are enough, or `finishing` or `stopping` is set.

        Args:
            show_progress: Called about every half second.

        Raises:
            HopelessError: Trials fail one after the other.
        """
        try:
            while not self.stopping:
                self._start_trials()
                if not self.running:
                    if reason := self._results.hopeless():
                        raise HopelessError(reason)
                    if self.finishing or self._queue.has_enough():
                        return
                self._receive(_WAIT_S)
                self._send_heartbeats()
                show_progress()
        finally:
            self._stop()

    def _start_trials(self) -> None:
        while self._launcher.devices.free and not (self.finishing or self._results.hopeless()):
            if not self._launcher.runs.can_be_created():
                return
            trial = self._queue.take({one.trial.number for one in self.running})
            if trial is None:
                return
            if not self._results.complete_if_finished(trial):
                self._start(trial)

    def _start(self, trial: optuna.Trial) -> None:
        started = self._launcher.launch(trial, self._results.run_of(trial))
        self.running.append(started)
        assert started.process.pid is not None
        with suppress(psutil.NoSuchProcess):  # If it has ended already, `_receive` notices it.
            name_worker(trial, started.process.pid)

    def _receive(self, timeout_s: float) -> None:
        by_connection = {one.connection: one for one in self.running}
        for connection in wait(list(by_connection), timeout_s):
            assert isinstance(connection, Connection)
            one = by_connection[connection]
            message: FromTrial | None = None
            with suppress(EOFError, OSError):  # OSError: the process died in the middle of a message
                message = connection.recv()
            if message is None:
                self._end(one)
                continue
            with self._unless_ended_elsewhere(one):
                self._handle(one, message)

    def _handle(self, one: TrialProcess, message: FromTrial) -> None:
        match message:
            case RunStarted(run_id):
                set_run(one.trial, run_id)
            case Report(value):
                if len(self._study.directions) == 1:
                    reported = self._study.get_trials(deepcopy=False)[one.trial.number].intermediate_values
                    one.trial.report(value, len(reported))
                    if one.trial.should_prune():
                        send(one.connection, Prune())
            case outcome:
                one.outcome = outcome

    def _send_heartbeats(self) -> None:
        """Show other sweeps that this one is alive."""
        if monotonic() - self._last_heartbeat >= HEARTBEAT_EVERY_S:
            self._last_heartbeat = monotonic()
            for one in self.running:
                with self._unless_ended_elsewhere(one):
                    claim(one.trial)

    @contextmanager
    def _unless_ended_elsewhere(self, one: TrialProcess) -> Iterator[None]:
        """Stop the process of a trial that another sweep has ended, because it considered this sweep dead."""
        try:
            yield
        except UpdateFinishedTrialError:
            _log.warning("trial %s was ended by another sweep, whose result counts", one.trial.number)
            send(one.connection, Stop())

    def _end(self, one: TrialProcess) -> None:
        self.running.remove(one)
        self._launcher.release(one)
        with self._unless_ended_elsewhere(one):
            self._results.record(one, stopping=self.stopping)

    def _stop(self) -> None:
        """Stop running trials. They stay RUNNING in the study, and the next sweep resumes them."""
        self.stopping = True
        for one in self.running:
            send(one.connection, Stop())
        deadline = monotonic() + _STOPS_WITHIN_S
        while self.running and monotonic() < deadline:
            self._receive(_WAIT_S)
        for one in list(self.running):
            one.process.kill()
            one.outcome = Stopped()
            self._end(one)
            if run_id := self._results.run_of(one.trial):
                recover_run(run_id, "KILLED", "it did not stop in time")
