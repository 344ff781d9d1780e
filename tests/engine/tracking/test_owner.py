"""The check whether a process is alive: by the process table of its pid namespace, else by its heartbeat."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import clean_environment

from project.engine.tracking import owner
from project.engine.tracking.owner import DEAD_AFTER_ON_THIS_KERNEL_S, DEAD_AFTER_S, is_me, owner_tags, state

BOOT, NAMESPACE, HOST = "project.process.boot", "project.process.pid_namespace", "project.process.host"
PID, STARTED = "project.process.pid", "project.process.started"
FREE_PID = "4194305"  # One more than the largest id that a kernel gives.
BEFORE_ON_THIS_KERNEL = (DEAD_AFTER_ON_THIS_KERNEL_S + DEAD_AFTER_S) / 2


@pytest.mark.parametrize(
    ("changed", "heartbeat_age_s", "holds_lock", "expected"),
    [
        pytest.param({}, None, False, "alive", id="this process"),
        pytest.param({}, 1e6, True, "alive", id="this process, suspended for days"),
        pytest.param({PID: FREE_PID}, 0.0, False, "dead", id="its id is free"),
        pytest.param({STARTED: "1.00 s after boot"}, 0.0, False, "dead", id="its id was given again"),
        pytest.param({NAMESPACE: "pid:[1]"}, None, True, "unknown", id="another namespace, nothing known"),
        pytest.param({NAMESPACE: "pid:[1]", PID: FREE_PID}, 1.0, True, "alive", id="another namespace, it beats"),
        pytest.param({NAMESPACE: "pid:[1]"}, BEFORE_ON_THIS_KERNEL, False, "alive", id="no lock shows that it is gone"),
        pytest.param({NAMESPACE: "pid:[1]"}, BEFORE_ON_THIS_KERNEL, True, "dead", id="its lock is free"),
        pytest.param({BOOT: "other"}, BEFORE_ON_THIS_KERNEL, True, "alive", id="another kernel's lock shows nothing"),
        pytest.param({BOOT: "other", PID: FREE_PID}, DEAD_AFTER_S + 1, True, "dead", id="another kernel, silent"),
        pytest.param({BOOT: "other"}, -DEAD_AFTER_S - 1, True, "dead", id="silent since the clock was set back"),
        pytest.param({HOST: "other", PID: FREE_PID}, 1.0, True, "alive", id="another host, it beats"),
        pytest.param({HOST: "other"}, None, True, "unknown", id="another host, nothing known"),
        pytest.param({BOOT: None, NAMESPACE: None, PID: FREE_PID}, None, True, "unknown", id="no place"),
    ],
)
def test_the_evidence_that_a_process_is_alive(
    changed: dict[str, str | None], heartbeat_age_s: float | None, holds_lock: bool, expected: str
) -> None:
    tags = {key: value for key, value in (owner_tags() | changed).items() if value is not None}
    assert state(tags, heartbeat_age_s, holds_lock=holds_lock) == expected


def test_a_process_of_another_user_that_the_system_hides_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        tags = owner_tags(child.pid)
        assert state(tags) == "alive"
        monkeypatch.setattr(owner.psutil, "PROCFS_PATH", "/proc/self/fdinfo")  # It shows no process, as hidepid does.
        assert state(tags) == "unknown"
    finally:
        child.communicate(b"\n")
    monkeypatch.undo()
    assert state(tags) == "dead"


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="makes pid namespaces")
@pytest.mark.parametrize("options", [["--mount-proc"], []], ids=["container", "foreign proc"])
def test_processes_of_two_namespaces_do_not_count_each_other_as_dead(options: list[str], tmp_path: Path) -> None:
    program = (
        "import json; from project.engine.tracking.owner import *; print(json.dumps(owner_tags()), flush=True); input()"
    )
    inside = ["unshare", "--pid", "--fork", "--kill-child", *options, sys.executable, "-c", program]
    process = subprocess.Popen(
        inside, env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    if not (printed := process.stdout.readline()):
        pytest.skip("unshare is not permitted")
    tags = json.loads(printed)
    try:
        assert tags[HOST] == owner_tags()[HOST]
        assert tags[PID] == "1"
        assert not is_me(tags)
        assert state(tags) == "unknown"
        assert state(tags, 1.0, holds_lock=True) == "alive"
    finally:
        process.communicate("\n")
