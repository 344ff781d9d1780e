"""A trial that somebody may run is left alone."""

from pathlib import Path

import optuna
import psutil
import pytest

from project.engine.search import ownership
from project.engine.search.ownership import Watch, claim
from project.engine.tracking.owner import owner_tags


@pytest.fixture
def trial(tmp_path: Path) -> optuna.Trial:
    return optuna.create_study(storage=f"sqlite:///{tmp_path}/optuna.db").ask()


def is_abandoned(trial: optuna.Trial, watch: Watch) -> bool:
    return watch.is_abandoned(trial.study.trials[0])


def test_the_process_table_decides_here(trial: optuna.Trial) -> None:
    assert is_abandoned(trial, Watch())  # its sweep was killed before it could say who it is
    trial.set_user_attr("owner", owner_tags(1))
    assert not is_abandoned(trial, Watch())
    dead = next(pid for pid in range(2, 2**22) if not psutil.pid_exists(pid))
    trial.set_user_attr("owner", owner_tags() | {"process.pid": str(dead)})
    assert is_abandoned(trial, Watch())
    claim(trial)
    assert is_abandoned(trial, Watch())  # this process knows what it runs itself


@pytest.mark.parametrize("elsewhere", ["process.pid_namespace", "process.boot", "process.host"])
def test_elsewhere_the_heartbeat_decides_after_a_minute_of_silence(
    elsewhere: str, trial: optuna.Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch()
    claim(trial)
    claimed = trial.user_attrs["owner"] | {elsewhere: "another"}
    trial.set_user_attr("owner", claimed)
    assert not is_abandoned(trial, watch)
    trial.set_user_attr("owner", claimed | {"heartbeat": str(int(claimed["heartbeat"]) - 3600)})
    assert not is_abandoned(trial, watch)
    monkeypatch.setattr(ownership, "_SILENT_FOR_S", 0.0)
    assert is_abandoned(trial, watch)
    trial.set_user_attr("owner", claimed)  # it lives after all, and was only late
    assert not is_abandoned(trial, watch)
