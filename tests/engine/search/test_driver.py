"""The owner of a study, with real processes whose objective takes no time."""

import logging
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import GridSampler
from optuna.trial import TrialState

from project.engine.search.device_pool import Devices
from project.engine.search.driver import Driver, HopelessError
from project.engine.search.preloading import start_preloading
from project.engine.search.space import SearchSpace
from project.engine.search.study_run import MLFLOW_RUN
from project.engine.search.trial_runs import TrialRuns
from project.engine.search.worker import Assignment

XY: dict[str, BaseDistribution] = {"x": FloatDistribution(0, 1), "y": IntDistribution(1, 3)}


class Bench:
    """A study with a run of its own, and drivers for it."""

    def __init__(self, folder: Path, space: dict[str, BaseDistribution], sampler: optuna.samplers.BaseSampler) -> None:
        self.folder, self.client = folder, MlflowClient()
        text = "sampler: {search_space: {y: [1, 2, 3]}}"
        self.space = SearchSpace({"val/accuracy": "maximize"}, space, sampler, None, text)
        self.study = optuna.create_study(
            storage=f"sqlite:///{folder}/optuna.db", study_name="s", direction="maximize", sampler=sampler
        )
        self.study.set_user_attr(MLFLOW_RUN, self.client.create_run("0").info.run_id)

        self.ends: dict[int, str] = {}  # of some trials
        self.on_look: Callable[[Driver], None] = lambda _: None

    def run(self, n_trials: int, n_jobs: int = 2, max_retries: int = 0, devices: Devices | None = None) -> int:
        """Run trials; the largest number of them that ran at the same time."""
        start_preloading(["project.engine.search.worker"])
        driver = Driver(
            self.study, self.space, self._assignment, devices or Devices(n_jobs, 1, 2, []), n_trials, max_retries,
            FileLock(self.folder / "lock"), TrialRuns(self.client, "0", self.study, ["val/accuracy"]),
        )  # fmt: skip
        counts = [0]

        def look() -> None:
            counts.append(len(driver.running))
            self.on_look(driver)

        driver.run(look)
        return max(counts)

    def _assignment(
        self, parameters: object, number: int, run: str | None, lent: dict[str, str], threads: int
    ) -> Assignment:
        assert isinstance(parameters, dict)
        argv = [f"--{name}={value}" for name, value in parameters.items()]
        environment = lent | {"END": self.ends.get(number, self.ends.get(-1, ""))}
        return Assignment("objective", argv, ["val/accuracy"], environment, threads, self.folder / "log")

    @property
    def states(self) -> list[TrialState]:
        return [trial.state for trial in self.study.trials]

    @property
    def children(self) -> list[Run]:
        return list(self.client.search_runs(["0"], "tags.trial != ''", order_by=["attributes.start_time"]))


@pytest.fixture
def bench(workplace: Path) -> Bench:
    return Bench(workplace, XY, optuna.samplers.RandomSampler(0))


def test_a_trial_that_was_asked_for_by_halves_gets_all_its_parameters(bench: Bench) -> None:
    half = bench.study.ask()
    half.suggest_float("x", 0, 1)  # and here its sweep was killed
    bench.run(2)
    first, second = bench.study.trials
    assert first.state == second.state == TrialState.COMPLETE
    assert first.params == {"x": half.params["x"], "y": first.params["y"]}


def test_failures_have_their_reason_in_a_run_of_their_own(bench: Bench) -> None:
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


def test_settings_that_fail_alike_end_it_and_retries_are_no_new_settings(bench: Bench) -> None:
    bench.ends = {-1: "out of memory"}
    with pytest.raises(HopelessError, match=r"3 settings in a row failed in the same way: ValueError: out of memory"):
        bench.run(8, n_jobs=1, max_retries=2)
    assert bench.states == [TrialState.FAIL] * 9


def test_one_choice_that_fails_again_and_again_is_one_setting(workplace: Path) -> None:
    bench = Bench(workplace, {"y": IntDistribution(1, 2)}, optuna.samplers.RandomSampler(4))  # 2 2 2 2 2 1
    bench.ends = {-1: "fails with 2"}
    bench.run(1, n_jobs=1)
    assert [(trial.params["y"], trial.state) for trial in bench.study.trials] == [
        *[(2, TrialState.FAIL)] * 5,
        (1, TrialState.COMPLETE),
    ]


def test_a_trial_that_another_sweep_ends_does_not_end_this_one(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def end_first(driver: Driver) -> None:
        study = optuna.load_study(study_name="s", storage=f"sqlite:///{bench.folder}/optuna.db")
        if study.trials[0].state == TrialState.RUNNING:
            study.tell(0, 0.5)

    bench.ends, bench.on_look = {0: "slow"}, end_first
    with caplog.at_level(logging.WARNING, "project"):
        bench.run(2, n_jobs=1)
    assert bench.states == [TrialState.COMPLETE] * 2
    assert bench.study.trials[0].value == 0.5
    assert "trial 0 was ended by another sweep" in caplog.text


def test_no_more_trials_run_than_jobs_and_each_has_its_share_of_the_cores(bench: Bench) -> None:
    bench.ends = {0: "shares", 1: "killed", -1: "shares"}
    devices = Devices(n_jobs=2, per_trial=2, cores=12, gpus=[str(gpu) for gpu in range(8)])
    assert bench.run(4, devices=devices) == 2
    said = [line for line in (bench.folder / "log").read_text().splitlines() if line.startswith("shares")]
    assert said == ["shares 3 6 3"] * 4  # threads of torch, cores, and threads that decode for each of two devices
    assert devices.free == 2


def test_what_runs_goes_on_while_others_fail(bench: Bench) -> None:
    bench.ends = {-1: "out of memory", 0: "slow"}
    with pytest.raises(HopelessError, match=r"1[01] settings in a row failed in the same way"):  # 10 after one was well
        bench.run(20)
    assert bench.states[0] == TrialState.COMPLETE
    assert set(bench.states[1:]) == {TrialState.FAIL}


def test_settings_that_fail_each_in_its_way_end_it_too(bench: Bench) -> None:
    bench.ends = {-1: "random"}
    with pytest.raises(HopelessError, match=r"20 trials in a row failed; the last: ValueError: cannot read /tmp"):
        bench.run(30, n_jobs=1)


def test_a_grid_is_searched_once_and_no_more(workplace: Path) -> None:
    grid = Bench(workplace, {"y": IntDistribution(1, 3)}, GridSampler({"y": [1, 2, 3]}))
    grid.run(8)
    grid.run(8)
    assert sorted(trial.params["y"] for trial in grid.study.trials) == [1, 2, 3]
