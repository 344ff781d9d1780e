"""The owner of a trial: attributes that name the processes of a sweep, and a heartbeat."""

from time import monotonic, time

import optuna
from optuna.trial import FrozenTrial

from project.engine.tracking.owner import is_me, owner_tags, state

HEARTBEAT_EVERY_S = 20.0
_OWNER, _WORKER, _HEARTBEAT = "owner", "worker", "heartbeat"
_SILENT_FOR_S = 60.0


def claim(trial: optuna.Trial) -> None:
    """Say that this process runs a trial, and lives; to be repeated as a heartbeat."""
    trial.set_user_attr(_OWNER, owner_tags() | {_HEARTBEAT: f"{time():.0f}"})


def name_worker(trial: optuna.Trial, pid: int) -> None:
    """Say in which process of this sweep a trial trains.

    Raises:
        psutil.NoSuchProcess: It has ended already.
    """
    trial.set_user_attr(_WORKER, owner_tags(pid))


def had_worker(trial: optuna.Trial) -> bool:
    """Whether a process of the trial was started, which may have made an MLflow run."""
    return _WORKER in trial.user_attrs


class Watch:
    """Decides which trials nobody runs any more; if in doubt, somebody does.

    The process table decides about processes of this pid namespace. About others, which may be of another container
    or machine, the heartbeat decides: it is old, and this process has not seen it change for a minute. A heartbeat
    that is old alone may be one that a locked database has held up, or that of a clock that is wrong.
    """

    def __init__(self) -> None:
        self._old_since: dict[tuple[int, str], float] = {}

    def is_abandoned(self, trial: FrozenTrial) -> bool:
        """Whether the processes that have run a trial are dead; this one does not count, as it knows what it runs."""
        owners = [trial.user_attrs[role] for role in (_OWNER, _WORKER) if role in trial.user_attrs]
        others = [owner for owner in owners if not is_me(owner)]
        if {state(owner) for owner in others} <= {"dead"}:
            return True
        assert trial.datetime_start is not None
        heartbeat = owners[0].get(_HEARTBEAT, f"{trial.datetime_start.timestamp():.0f}")
        if any(state(owner, time() - float(heartbeat)) == "alive" for owner in others):
            return False
        seen = self._old_since.setdefault((trial.number, heartbeat), monotonic())
        return monotonic() - seen > _SILENT_FOR_S
