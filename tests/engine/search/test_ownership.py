"""A trial that another process may still run is not taken."""

from pathlib import Path

import optuna
import psutil
import pytest

from project.engine.compat import set_system_attr, system_attrs
from project.engine.search import ownership
from project.engine.search.ownership import AbandonmentCheck, claim
from project.engine.tracking.owner import owner_tags


@pytest.fixture
def trial(tmp_path: Path) -> optuna.Trial:
    return optuna.create_study(storage=f"sqlite:///{tmp_path}/optuna.db").ask()


def is_abandoned(trial: optuna.Trial, watch: AbandonmentCheck) -> bool:
    return watch.is_abandoned(trial.study.trials[0])


def test_the_process_table_decides_in_this_pid_namespace(trial: optuna.Trial) -> None:
    assert is_abandoned(trial, AbandonmentCheck())  # its sweep was killed before it recorded an owner
    set_system_attr(trial, "owner", owner_tags(1))
    assert not is_abandoned(trial, AbandonmentCheck())
    dead = next(pid for pid in range(2, 2**22) if not psutil.pid_exists(pid))
    set_system_attr(trial, "owner", owner_tags() | {"project.process.pid": str(dead)})
    assert is_abandoned(trial, AbandonmentCheck())
    claim(trial)
    assert is_abandoned(trial, AbandonmentCheck())  # the caller knows which trials this process runs


@pytest.mark.parametrize("elsewhere", ["project.process.pid_namespace", "project.process.boot", "project.process.host"])
def test_elsewhere_the_heartbeat_decides_after_a_minute_of_silence(
    elsewhere: str, trial: optuna.Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = AbandonmentCheck()
    claim(trial)
    claimed = system_attrs(trial)["owner"] | {elsewhere: "another"}
    set_system_attr(trial, "owner", claimed)
    assert not is_abandoned(trial, watch)
    set_system_attr(trial, "owner", claimed | {"heartbeat": str(int(claimed["heartbeat"]) - 3600)})
    assert not is_abandoned(trial, watch)
    monkeypatch.setattr(ownership, "_SILENT_FOR_S", 0.0)
    assert is_abandoned(trial, watch)
    set_system_attr(trial, "owner", claimed)  # it is alive; its heartbeat was late
    assert not is_abandoned(trial, watch)
