"""The driver of a study, with real processes whose objective takes no time."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import set_forkserver_preload
from pathlib import Path
from typing import Any

import optuna
import pytest
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BruteForceSampler, GridSampler
from optuna.trial import TrialState

from project.engine.search.device_pool import Devices
from project.engine.search.driver import Driver
from project.engine.search.space import SearchSpace
from project.engine.search.study import MLFLOW_RUN
from project.engine.search.trial_process import TrialLauncher
from project.engine.search.trial_queue import TrialQueue
from project.engine.search.trial_results import HopelessError, TrialResults
from project.engine.search.trial_runs import TrialRuns
from project.engine.search.view import describe_trial

XY: dict[str, BaseDistribution] = {"x": FloatDistribution(0, 1), "y": IntDistribution(1, 3)}


class Bench:
    """A study with a run of its own, and drivers for it."""

    def __init__(self, folder: Path, space: dict[str, BaseDistribution], sampler: optuna.samplers.BaseSampler) -> None:
        self.folder, self.client = folder, MlflowClient()
        text = "sampler: {search_space: {y: [1, 2, 3]}}"
        self.space = SearchSpace({"val/accuracy": "maximize"}, space, sampler, None, Path("lr.yaml"), text)
        self.study = optuna.create_study(
            storage=f"sqlite:///{folder}/optuna.db", study_name="s", direction="maximize", sampler=sampler
        )
        self.study.set_user_attr(MLFLOW_RUN, self.client.create_run("0").info.run_id)

        self.ends: dict[int, str] = {}  # of some trials
        self.on_progress: Callable[[Driver], None] = lambda _: None

    def run(self, n_trials: int, n_jobs: int = 2, max_retries: int = 0, devices: Devices | None = None) -> int:
        """Run trials; return the largest number that ran at the same time."""
        set_forkserver_preload(["project.engine.search.worker"])
        metrics = ["val/accuracy"]
        runs = TrialRuns(self.client, "0", self.study, metrics)
        argv = [f"--ends={json.dumps(self.ends)}"]
        launcher = TrialLauncher(
            "objective", argv, metrics, devices or Devices(n_jobs, 1, 2, []), runs, self.folder, self.folder
        )
        queue = TrialQueue(self.study, self.space, n_trials, FileLock(self.folder / "lock"))
        driver = Driver(
            self.study, queue, launcher, TrialResults(self.study, metrics, runs, max_retries, self.space.most_trials)
        )
        counts = [0]

        def show_progress() -> None:
            counts.append(len(driver.running))
            self.on_progress(driver)

        driver.run(show_progress)
        return max(counts)

    @property
    def states(self) -> list[TrialState]:
        return [trial.state for trial in self.study.trials]

    @property
    def children(self) -> list[Run]:
        return list(self.client.search_runs(["0"], "tags.trial != ''", order_by=["attributes.start_time"]))


@pytest.fixture
def bench(workplace: Path) -> Bench:
    return Bench(workplace, XY, optuna.samplers.RandomSampler(0))


@pytest.mark.faults
def test_a_trial_that_lacks_a_parameter_gets_it(bench: Bench) -> None:
    half = bench.study.ask()
    half.suggest_float("x", 0, 1)  # its sweep was killed here
    bench.run(2)
    first, second = bench.study.trials
    assert first.state == second.state == TrialState.COMPLETE
    assert first.params == {"x": half.params["x"], "y": first.params["y"]}


def test_the_reason_of_a_failure_is_in_the_run_of_the_trial(bench: Bench) -> None:
    bench.ends = {0: "killed", 1: "out of memory"}
    bench.run(3, max_retries=1)
    failed = [trial for trial in bench.study.trials if trial.state == TrialState.FAIL]
    reasons = {"its process was killed by signal 9", "ValueError: out of memory"}
    assert {trial.user_attrs["error"] for trial in failed} == reasons
    assert {run.data.tags["error"] for run in bench.children} == reasons
    assert {run.info.status for run in bench.children} == {"FAILED"}
    for trial, run in zip(failed, sorted(bench.children, key=lambda run: int(run.data.tags["trial"])), strict=True):
        assert run.data.params == {name: str(value) for name, value in trial.params.items()}
    again = {t.user_attrs["retry_of"]: t.params for t in bench.study.trials if "retry_of" in t.user_attrs}
    assert again == {trial.number: trial.params for trial in failed}
    assert bench.states.count(TrialState.COMPLETE) == 3


def test_the_text_of_an_exit_is_the_reason_of_a_failure(bench: Bench) -> None:
    bench.ends = {0: "exit"}
    bench.run(1, n_jobs=1)
    assert bench.study.trials[0].user_attrs["error"] == "exit code 1: no data"


def test_a_pruned_trial_can_be_told_from_a_failed_one(bench: Bench) -> None:
    attributes: set[str] = set()

    def look(driver: Driver) -> None:
        attributes.update(*(trial.user_attrs for trial in bench.study.trials))

    bench.ends, bench.on_progress = {0: "pruned", 1: "out of memory"}, look
    bench.study.pruner = optuna.pruners.ThresholdPruner(lower=0.3)
    bench.run(2)
    assert bench.states == [TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE]
    runs = {run.data.tags["trial"]: run.data.tags for run in bench.children}
    assert (runs["0"]["state"], runs["0"]["pruned"]) == ("pruned", "after 2 validations at val/accuracy 0.2500")
    assert (runs["1"]["state"], runs["1"].get("pruned")) == ("failed", None)
    pruned, failed, complete = (describe_trial(trial, ["val/accuracy"]) for trial in bench.study.trials)
    assert pruned.startswith("trial 0: pruned after 2 validations at val/accuracy 0.2500  (")
    assert failed.startswith("trial 1: failed: ValueError: out of memory  (")
    assert complete.startswith("trial 2: val/accuracy ")
    assert attributes == {"run_id", "error"}  # Dashboards show these, and none of them is a process id.


@pytest.mark.faults
def test_three_failures_at_first_end_the_sweep_and_retries_do_not_count(bench: Bench) -> None:
    bench.ends = {-1: "out of memory"}
    with pytest.raises(HopelessError, match=r"3 trials in a row failed; the last: ValueError: out of memory"):
        bench.run(8, n_jobs=1, max_retries=1)
    assert bench.states == [TrialState.FAIL] * 6


@pytest.mark.faults
def test_a_trial_that_another_sweep_ends_does_not_end_this_one(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def end_first(driver: Driver) -> None:
        study = optuna.load_study(study_name="s", storage=f"sqlite:///{bench.folder}/optuna.db")
        if study.trials[0].state == TrialState.RUNNING:
            study.tell(0, 0.5)

    bench.ends, bench.on_progress = {0: "slow"}, end_first
    with caplog.at_level(logging.WARNING, "project"):
        bench.run(2, n_jobs=1)
    assert bench.states == [TrialState.COMPLETE] * 2
    assert bench.study.trials[0].value == 0.5
    assert "trial 0 was ended by another sweep" in caplog.text


def test_a_trial_waits_for_a_store_that_does_not_respond(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    search, faults, states = MlflowClient.search_experiments, ["no", "no"], []

    def search_later(client: MlflowClient, **options: Any) -> Any:
        if faults:
            raise MlflowException(faults.pop())
        return search(client, **options)

    monkeypatch.setattr(MlflowClient, "search_experiments", search_later)
    bench.on_progress = lambda _: states.append(bench.states)
    with caplog.at_level(logging.WARNING, "project"):
        bench.run(1, n_jobs=1)
    assert states[:2] == [[], []]
    assert bench.states == [TrialState.COMPLETE]
    assert [record.message for record in caplog.records] == [
        "the MLflow store does not respond: no; no trial starts until it does",
        "the MLflow store responds again",
    ]


@pytest.mark.faults
def test_the_error_of_the_store_at_the_end_of_a_trial_is_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise MlflowException("the disk is full")

    monkeypatch.setattr(MlflowClient, "create_run", refuse)
    bench.ends = {0: "out of memory"}
    with caplog.at_level(logging.WARNING, "project"):
        bench.run(1, n_jobs=1)
    assert caplog.messages == ["the MLflow store does not respond: the disk is full"]


def test_n_jobs_trials_run_at_the_same_time_and_each_has_its_share_of_the_cores(bench: Bench) -> None:
    bench.ends = {0: "shares", 1: "killed", -1: "shares"}
    devices = Devices(n_jobs=2, per_trial=2, cores=12, gpus=[str(gpu) for gpu in range(8)])
    assert bench.run(4, devices=devices) == 2
    logs = [log.read_text() for log in bench.folder.glob("trial-*.log")]
    lines = [line for log in logs for line in log.splitlines() if line.startswith("shares")]
    assert lines == ["shares 3 6 3"] * 4  # threads of torch, cores, and threads that decode for each of two devices
    assert devices.free == 2


def test_a_trial_has_the_environment_of_its_sweep_although_its_server_started_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(1)
    monkeypatch.setenv("OF_THE_SWEEP", "seen")
    monkeypatch.setenv("MASTER_PORT", "29500")  # Two trials cannot share a port.
    bench.ends = {1: "environment"}
    bench.run(2)
    assert "environment seen None\n" in (bench.folder / "trial-1.log").read_text()


@pytest.mark.faults
def test_running_trials_continue_while_others_fail(bench: Bench) -> None:
    enough = bench.folder / "enough"

    def finish(driver: Driver) -> None:
        if bench.states.count(TrialState.FAIL) == 3:
            enough.touch()
        driver.finishing = bench.states[0] == TrialState.COMPLETE

    bench.ends, bench.on_progress = {-1: "out of memory", 0: str(enough)}, finish
    bench.run(20)
    assert bench.states[0] == TrialState.COMPLETE
    assert bench.states[1:4] == [TrialState.FAIL] * 3
    assert len(bench.states) <= 5  # After the third failure no trial started until the success.


@pytest.mark.faults
def test_ten_failures_after_a_success_end_the_sweep(bench: Bench) -> None:
    bench.ends = {0: "", -1: "out of memory"}
    with pytest.raises(HopelessError, match="10 trials in a row failed"):
        bench.run(20, n_jobs=1)
    assert bench.states == [TrialState.COMPLETE, *[TrialState.FAIL] * 10]


def test_a_grid_is_searched_only_once(workplace: Path) -> None:
    grid = Bench(workplace, {"y": IntDistribution(1, 3)}, GridSampler({"y": [1, 2, 3]}))
    grid.ends = {0: "out of memory", 1: "slow"}  # The point of the slow trial is the only one left to complete.
    grid.run(8)
    grid.run(8)
    assert sorted(trial.params["y"] for trial in grid.study.trials) == [1, 2, 3]
    assert grid.states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]


@pytest.mark.faults
def test_a_grid_whose_points_all_fail_ends_the_sweep(workplace: Path) -> None:
    grid = Bench(workplace, {"y": IntDistribution(1, 3)}, GridSampler({"y": [1, 2]}))
    grid.space = replace(grid.space, text="sampler: {search_space: {y: [1, 2]}}")
    grid.ends = {-1: "out of memory"}
    with pytest.raises(HopelessError, match=r"2 trials in a row failed; the last: ValueError: out of memory"):
        grid.run(8)


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore:BruteForceSampler is experimental")
def test_the_last_point_of_a_whole_space_is_repeated_if_it_fails(workplace: Path) -> None:
    space = Bench(workplace, {"y": IntDistribution(1, 3)}, BruteForceSampler())
    space.ends = {2: "out of memory"}
    for _ in range(2):
        space.run(8, n_jobs=1, max_retries=1)
        assert space.states == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert sorted(trial.params["y"] for trial in space.study.get_trials(states=[TrialState.COMPLETE])) == [1, 2, 3]
