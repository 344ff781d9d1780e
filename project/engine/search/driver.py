"""The process that owns a study: it asks for trials, runs them in processes of their own, and tells how they ended."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import Any

import optuna
import psutil
from filelock import FileLock
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BruteForceSampler, GridSampler
from optuna.trial import FrozenTrial, TrialState

from project.engine.compat import suggest, take_over
from project.engine.search.device_pool import Devices
from project.engine.search.ownership import HEARTBEAT_EVERY_S, Watch, claim, had_worker, name_worker
from project.engine.search.reporter import PRUNE, STOP
from project.engine.search.space import SearchSpace
from project.engine.search.trial_runs import TrialRuns
from project.engine.search.worker import Assignment, run_trial
from project.engine.tracking.recovery import recover_run

_log = logging.getLogger(__name__)

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
_LOOK_EVERY_S = 0.5
_STOPS_WITHIN_S = 30.0
_FAILURES_AT_FIRST, _FAILURES_LATER, _FAILURES_OF_ANY_KIND = 3, 10, 20
_NUMBER = r"\d[-+\d.e]*"


class HopelessError(RuntimeError):
    """Trials fail one after the other, in the same way or in any."""


@dataclass
class Running:
    """A trial and its process."""

    trial: optuna.Trial
    process: BaseProcess
    connection: Connection
    lent: dict[str, str]
    outcome: tuple[Any, ...] | None = None


class Driver:
    """Keeps `n_jobs` trials running until the study has `n_trials` that are complete or pruned.

    Several drivers may share a study: a lock makes them count, and take trials, one after the other. A trial
    whose driver has died is run again by the next one that looks, from its checkpoint where it has one.

    Args:
        study: Its storage is the truth.
        space: What is searched.
        assignment: Makes the work of a trial: parameters, number, run to continue, environment, threads.
        devices: What trials run on.
        n_trials: Trials in all, those of other drivers and earlier sweeps included.
        max_retries: How often a failed trial is run again with the same parameters.
        lock: Held while trials are counted and taken.
        runs: The trials' runs: a trial may make one, or end, while no driver listens.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        assignment: Callable[[Mapping[str, Any], int, str | None, dict[str, str], int], Assignment],
        devices: Devices,
        n_trials: int,
        max_retries: int,
        lock: FileLock,
        runs: TrialRuns,
    ) -> None:
        self.study, self._space, self._assignment, self._devices = study, space, assignment, devices
        self.n_trials, self._max_retries, self._lock = min(n_trials, space.most_trials), max_retries, lock
        self._runs = runs
        self.running: list[Running] = []
        self.finishing = self.stopping = False
        self._exhausted = False
        self._failures: list[tuple[str, str]] = []  # settings and reason, since a trial went well
        self._watch, self._beaten = Watch(), monotonic()
        self._context = get_context("forkserver")

    def run(self, look: Callable[[], None]) -> None:
        """Run trials until there are enough, or `finishing` or `stopping` is set; `look` is called now and then.

        Raises:
            HopelessError: Different settings in a row failed in the same way, three at first, ten after one that did
                not; or twenty failed in any way.
        """
        try:
            while not self.stopping:
                self._fill()
                if not self.running:
                    if why := self._hopeless():
                        raise HopelessError(why)
                    if self.finishing or self._exhausted or self.enough():
                        return
                self._listen(_LOOK_EVERY_S)
                self._beat()
                look()
        finally:
            self._stop()

    def enough(self) -> bool:
        """Whether the study has the trials that are wanted."""
        return sum(trial.state in DONE for trial in self._trials()) >= self.n_trials

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _fill(self) -> None:
        while self._devices.free and not (self.finishing or self._exhausted or self._hopeless()):
            with self._lock:
                trial = self._take()
            if trial is None:
                return
            self._start(trial)

    def _take(self) -> optuna.Trial | None:
        """A trial whose driver is dead, else a new one, else None where enough are done or running."""
        trials = self._trials()
        ours = {one.trial.number for one in self.running}
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        for trial in running:
            if trial.number not in ours and self._watch.is_abandoned(trial):
                taken = take_over(self.study, trial)
                break
        else:
            if sum(trial.state in DONE for trial in trials) + len(running) >= self.n_trials:
                return None
            taken = self.study.ask()
        for name, distribution in self._space.distributions.items():
            suggest(taken, name, distribution)  # also what a driver that was killed in the middle of this has left out
        claim(taken)
        return taken

    def _start(self, trial: optuna.Trial) -> None:
        if (values := self._finished(trial)) is not None:
            self._close(trial, values=values)
            return
        lent = self._devices.lend()
        work = self._assignment(trial.params, trial.number, self._run_of(trial), lent, self._devices.threads)
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=run_trial, args=(theirs, work), name=f"trial {trial.number}")
        process.start()
        theirs.close()
        assert process.pid is not None
        with suppress(psutil.NoSuchProcess):  # it has ended already, as `_listen` will see
            name_worker(trial, process.pid)
        self.running.append(Running(trial, process, ours, lent))

    def _run_of(self, trial: optuna.Trial) -> str | None:
        """The run of a trial: as its process said, or as it made one and died before it could say so."""
        run_id: str | None = trial.user_attrs.get("run_id")
        if run_id is None and had_worker(trial) and (run_id := self._runs.find(trial.number)):
            trial.set_user_attr("run_id", run_id)
        return run_id

    def _listen(self, timeout_s: float) -> None:
        by_connection = {one.connection: one for one in self.running}
        for connection in wait(list(by_connection), timeout_s):
            assert isinstance(connection, Connection)
            one = by_connection[connection]
            try:
                message = connection.recv()
            except (EOFError, OSError):  # OSError: it died in the middle of a message
                self._end(one)
            else:
                with self._unless_ended_elsewhere(one):
                    self._hear(one, message)

    def _beat(self) -> None:
        """Show other sweeps that this one lives."""
        if monotonic() - self._beaten >= HEARTBEAT_EVERY_S:
            self._beaten = monotonic()
            for one in self.running:
                with self._unless_ended_elsewhere(one):
                    claim(one.trial)

    @contextmanager
    def _unless_ended_elsewhere(self, one: Running) -> Iterator[None]:
        """Stop the process of a trial that another sweep has ended, as one that took this one for dead does."""
        try:
            yield
        except UpdateFinishedTrialError:
            _log.warning("trial %s was ended by another sweep, whose result counts", one.trial.number)
            _tell(one.connection, STOP)

    def _hear(self, one: Running, message: tuple[Any, ...]) -> None:
        match message:
            case ("run", run_id):
                one.trial.set_user_attr("run_id", run_id)
            case ("report", step, value):
                if len(self._space.metrics) == 1 and step not in self._reported(one):
                    one.trial.report(value, step)
                    if one.trial.should_prune():
                        _tell(one.connection, PRUNE)
            case _:
                one.outcome = message

    def _reported(self, one: Running) -> Mapping[int, float]:
        return self._trials()[one.trial.number].intermediate_values

    def _end(self, one: Running) -> None:
        one.process.join()
        one.connection.close()
        self.running.remove(one)
        self._devices.give_back(one.lent)
        with self._unless_ended_elsewhere(one):
            self._judge(one)

    def _judge(self, one: Running) -> None:
        if self._trials()[one.trial.number].state.is_finished():
            raise UpdateFinishedTrialError
        match one.outcome:
            case ("done", values):
                self._complete(one, values)
            case ("pruned",):
                self._close(one.trial, state=TrialState.PRUNED)
            case ("stopped",) | None if self.stopping:  # None: it had no handler of signals yet
                pass  # the trial stays as it is, and the next sweep continues it
            case ("stopped",):
                self._fail(one, "stopped by SIGTERM")
            case ("failed", reason):
                self._fail(one, reason)
            case _ if (values := self._finished(one.trial)) is not None:
                self._complete(one, values)  # it died after finishing
            case _:
                code = one.process.exitcode or 0
                self._fail(
                    one, f"its process was killed by signal {-code}" if code < 0 else f"it ended with code {code}"
                )

    def _complete(self, one: Running, values: Sequence[float | None]) -> None:
        if None in values:  # for example, it was resumed after its last validation
            values = self._finished(one.trial) or values
        lost = [metric for metric, value in zip(self._space.metrics, values, strict=True) if value is None]
        if lost or any(value != value for value in values):
            self._fail(one, f"the run has no {lost[0]}" if lost else f"the metrics are {values}")
        else:
            self._close(one.trial, values=values)

    def _finished(self, trial: optuna.Trial) -> list[float] | None:
        """The metrics of a trial whose run is finished; else None."""
        run_id = self._run_of(trial)
        return self._runs.values(run_id) if run_id else None

    def _close(self, trial: optuna.Trial, **outcome: Any) -> None:
        state = outcome.get("state", TrialState.COMPLETE)
        if state != TrialState.FAIL:
            self._failures.clear()
        if run_id := self._run_of(trial):
            self._runs.before_end(run_id, state)
        try:
            self.study.tell(trial, skip_if_finished=True, **outcome)
        except RuntimeError:  # so these say that they have tried everything
            if not isinstance(self.study.sampler, GridSampler | BruteForceSampler):
                raise
            self._exhausted = True
        self._runs.after_end()

    def _fail(self, one: Running, reason: str) -> None:
        retries = one.trial.user_attrs.get("retries", 0)
        one.trial.set_user_attr("error", reason)
        if (run_id := self._run_of(one.trial)) is None:
            self._runs.make_failed(one.trial, reason)
        elif one.outcome is None:
            recover_run(run_id, "FAILED", reason)
        self._close(one.trial, state=TrialState.FAIL)
        if retries < self._max_retries:
            again = {"retries": retries + 1, "retry_of": one.trial.number}
            self.study.enqueue_trial(one.trial.params, user_attrs=again)
        else:
            self._failures.append((str(one.trial.params), reason))

    def _hopeless(self) -> str | None:
        """Return the reason to start no more trials, or None. Running trials continue."""
        if not self._failures:
            return None
        settings = len({setting for setting, _ in self._failures})
        limit = _FAILURES_LATER if any(trial.state in DONE for trial in self._trials()) else _FAILURES_AT_FIRST
        alike = settings >= limit and len({re.sub(_NUMBER, "#", reason) for _, reason in self._failures}) == 1
        if not alike and len(self._failures) < _FAILURES_OF_ANY_KIND:
            return None
        _, reason = self._failures[-1]
        if alike:
            return f"{settings} settings in a row failed in the same way: {reason}"
        return f"{len(self._failures)} trials in a row failed; the last: {reason}"

    def _stop(self) -> None:
        """End what runs; the trials stay RUNNING in the study, and the next sweep continues them."""
        self.stopping = True
        for one in self.running:
            _tell(one.connection, STOP)
        deadline = monotonic() + _STOPS_WITHIN_S
        while self.running and monotonic() < deadline:
            self._listen(_LOOK_EVERY_S)
        for one in list(self.running):
            one.process.kill()
            one.outcome = ("stopped",)
            self._end(one)
            if run_id := self._run_of(one.trial):
                recover_run(run_id, "KILLED", "it did not stop in time")


def _tell(connection: Connection, message: str) -> None:
    try:
        connection.send(message)
    except OSError:  # it has ended, which the next look will show
        return
