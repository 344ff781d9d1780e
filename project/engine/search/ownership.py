"""The owner of a trial: attributes that identify the processes of a sweep, and a heartbeat.

They are system attributes, which dashboards do not show.
"""

from time import monotonic, time

import optuna
from optuna.trial import FrozenTrial

from project.engine.compat import set_system_attr, system_attrs
from project.engine.tracking.owner import is_me, owner_tags, state

HEARTBEAT_EVERY_S = 20.0
_OWNER, _WORKER, _HEARTBEAT = "owner", "worker", "heartbeat"
_SILENT_FOR_S = 60.0


def claim(trial: optuna.Trial) -> None:
    """Record that this process runs a trial and is alive. Called again, it renews the heartbeat."""
    set_system_attr(trial, _OWNER, owner_tags() | {_HEARTBEAT: f"{time():.0f}"})


def name_worker(trial: optuna.Trial, pid: int) -> None:
    """Record the process in which a trial trains.

    Raises:
        psutil.NoSuchProcess: It has ended already.
    """
    set_system_attr(trial, _WORKER, owner_tags(pid))


def had_worker(trial: optuna.Trial) -> bool:
    """Return whether a process of the trial was started. If so, it may have created an MLflow run."""
    return _WORKER in system_attrs(trial)


class AbandonmentCheck:
    """The check whether any process still runs a trial. If in doubt, one does.

    For a process of this pid namespace, the process table decides. For another process, which may be in another
    container or on another machine, the heartbeat decides: it must be old, and must not have changed for a minute. The
    age alone does not decide, because a locked database delays heartbeats, and clocks may differ.
    """

    def __init__(self) -> None:
        self._old_since: dict[tuple[int, str], float] = {}

    def is_abandoned(self, trial: FrozenTrial) -> bool:
        """Return whether the processes that have run a trial are dead.

        This process does not count, because the caller knows which trials it runs.
        """
        owners = [trial.system_attrs[role] for role in (_OWNER, _WORKER) if role in trial.system_attrs]
        others = [owner for owner in owners if not is_me(owner)]
        if {state(owner) for owner in others} <= {"dead"}:
            return True
        assert trial.datetime_start is not None
        heartbeat = owners[0].get(_HEARTBEAT, f"{trial.datetime_start.timestamp():.0f}")
        if any(state(owner, time() - float(heartbeat)) == "alive" for owner in others):
            return False
        seen = self._old_since.setdefault((trial.number, heartbeat), monotonic())
        return monotonic() - seen > _SILENT_FOR_S
