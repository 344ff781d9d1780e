"""The order of trials: abandoned ones first, then new ones, until the study has enough."""

from collections.abc import Collection, Sequence

import optuna
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState

from project.engine.compat import suggest, take_over
from project.engine.search.ownership import AbandonmentCheck, claim
from project.engine.search.space import SearchSpace
from project.engine.search.study import DONE_STATES, RETRY_OF


class TrialQueue:
    """The trials that this sweep still has to run.

    Several sweeps may share a study: with the lock, they count and take trials one after the other.

    Args:
        study: The study.
        space: The ranges of its parameters.
        n_trials: Number of complete and pruned trials to reach, including those of other and earlier sweeps.
        lock: Held while trials are counted and taken.
    """

    def __init__(self, study: optuna.Study, space: SearchSpace, n_trials: int, lock: FileLock) -> None:
        self._study, self._space, self._lock = study, space, lock
        self.n_trials = min(n_trials, space.most_trials)
        self._abandonment = AbandonmentCheck()

    def has_enough(self) -> bool:
        """Return whether the study has `n_trials` complete or pruned trials, or no point is left to try."""
        trials = self._study.get_trials(deepcopy=False)
        done = sum(trial.state in DONE_STATES for trial in trials)
        return done >= self.n_trials or (self._is_exhausted(trials) and all(t.state.is_finished() for t in trials))

    def take(self, ours: Collection[int]) -> optuna.Trial | None:
        """Claim a trial whose sweep has died, else a new one.

        Args:
            ours: Numbers of the trials that this sweep runs.

        Returns:
            None if enough trials are done or running.
        """
        with self._lock:
            if (trial := self._abandoned_or_new(ours)) is None:
                return None
            for name, distribution in self._space.distributions.items():
                # A trial of a sweep that was killed at this point lacks some of its parameters.
                suggest(trial, name, distribution)
            claim(trial)
            return trial

    def _abandoned_or_new(self, ours: Collection[int]) -> optuna.Trial | None:
        trials = self._study.get_trials(deepcopy=False)
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        for trial in running:
            if trial.number not in ours and self._abandonment.is_abandoned(trial):
                return take_over(self._study, trial)
        if sum(trial.state in DONE_STATES for trial in trials) + len(running) >= self.n_trials:
            return None
        if self._is_exhausted(trials) and not any(trial.state == TrialState.WAITING for trial in trials):
            return None
        return self._study.ask()

    def _is_exhausted(self, trials: Sequence[FrozenTrial]) -> bool:
        """Return whether each point of a grid has a trial. Optuna's sampler would return a point again."""
        return sum(RETRY_OF not in trial.user_attrs for trial in trials) >= self._space.most_trials
