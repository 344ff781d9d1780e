"""Sweeps in real processes with real SQLite, from their start to each kind of end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import optuna
import psutil
import pytest
import torch
import yaml
from commands import Command
from conftest import Fit, clean_environment, copy_of_the_project, fit, listening
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from project.engine.tracking.description import TAG
from project.engine.tracking.names import score_text

pytestmark = pytest.mark.timeout(900)  # These waits end early on an idle machine.
WAIT_S = 280
FEW = [f"--trainer.limit_{split}_batches=2" for split in ("train", "val", "test")]
LR = {"model.optimizer.lr": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}}


class Sweep:
    """A `python -m project.sweep` in a copy of the project, with its own search space."""

    def __init__(self, folder: Path, *options: str, **space: object) -> None:
        self.folder = copy_of_the_project(folder)
        self.options = options
        content = {"metric": "val/accuracy", "direction": "maximize", "space": LR} | space
        (self.folder / "configs/search/mine.yaml").write_text(yaml.safe_dump(content))
        self.processes: list[Command | subprocess.Popen[str]] = []

    def start(self, *options: str) -> Command:
        process = Command(
            "project.sweep", "--search", "mine", "--study", "s", *self.options, *options,
            folder=self.folder, environment=clean_environment() | {"PYTHONPATH": str(self.folder)}, new_session=True,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def run(self, *options: str) -> str:
        process = self.start(*options)
        output = process.communicate(timeout=WAIT_S)[0]
        assert process.returncode == 0, output
        return output

    @property
    def study(self) -> optuna.Study:
        return optuna.load_study(study_name="s", storage=f"sqlite:///{self.folder}/mlruns/optuna.db")

    @property
    def states(self) -> Counter[TrialState]:
        return Counter(trial.state for trial in self.study.trials)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, [process.poll() for process in self.processes]
            time.sleep(0.1)

    def trains(self) -> None:
        """Wait until a trial that is not complete has a checkpoint."""
        self.wait_for(lambda: bool(list(self.folder.glob("mlruns/checkpoints/*/last.ckpt"))))

    def began(self, trial: int) -> bool:
        """Return whether a trial has reported its run."""
        try:
            trials = self.study.trials
        except (KeyError, SQLAlchemyError):  # The study does not exist yet.
            return False
        return len(trials) > trial and "run_id" in trials[trial].user_attrs

    def has_run(self, trial: int) -> bool:
        """Report whether a trial has created its run, even if the sweep has not received its id yet."""
        return any(run.data.tags.get("trial") == str(trial) for run in Fit(self.folder, 0, "").runs)

    def check(self, ended: int, failed: int = 0) -> None:
        """Assert the number of ended and failed trials, that none is running, and that each trial has one run."""
        states = self.states
        assert states[TrialState.COMPLETE] + states[TrialState.PRUNED] == ended, states
        errors = [trial.user_attrs.get("error") for trial in self.study.trials if trial.state == TrialState.FAIL]
        assert len(errors) == failed, errors
        assert states[TrialState.RUNNING] == 0
        assert self.study.metric_names in (["val/accuracy"], ["val/accuracy", "val/loss"])
        runs = Fit(self.folder, 0, "").runs
        parents = [run for run in runs if "trial" not in run.data.tags]
        (parent,) = parents
        children = {run.data.tags["trial"]: run for run in runs if "trial" in run.data.tags}
        assert len(children) == len(runs) - 1 == len(self.study.trials)
        status = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
        for trial in self.study.trials:
            child = children[str(trial.number)]
            assert child.info.status == status[trial.state]
            assert child.data.tags["state"] == trial.state.name.lower().replace("fail", "failed")
            if trial.state == TrialState.COMPLETE and len(trial.values) == 1:
                assert child.data.metrics["best/val/accuracy"] == trial.value
            assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
            for name, value in trial.params.items():
                assert child.data.params[name] == str(value)

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        # The processes of trials have their own sessions; they end after their sweep.
        deadline = time.monotonic() + 30
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.2)
        for process in left:
            process.kill()

    def left(self) -> list[psutil.Process]:
        return [p for p in psutil.process_iter(["cwd", "cmdline"]) if p.info["cwd"] == str(self.folder)]


@pytest.fixture
def sweeps() -> Iterator[list[Sweep]]:
    made: list[Sweep] = []
    yield made
    for sweep in made:
        sweep.end()


@pytest.fixture(scope="module")
def killed_twice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sweep, str]]:
    """A sweep after the kill of a trial and then of the sweep itself, and the output of the next command."""
    net = ["--model.net.widths=[8,8,8,8]", "--model.net.hidden=4096"]  # Its checkpoints consist mostly of weights.
    sweep = Sweep(tmp_path_factory.mktemp("sweep"), "--n_trials", "2", "--n_jobs", "2", "--max_epochs", "3", *net)
    try:
        process = sweep.start()
        sweep.wait_for(lambda: sweep.began(0))
        os.kill(int(sweep.study.trials[0].system_attrs["worker"]["project.process.pid"]), signal.SIGKILL)
        sweep.wait_for(lambda: sweep.has_run(2))  # The repeated trial has the same parameters.
        assert listening(process.pid) <= {"127.0.0.1", "::1"}
        process.kill()
        yield sweep, sweep.run()
    finally:
        sweep.end()


@pytest.mark.faults
def test_kills_of_a_trial_and_of_the_sweep_lose_nothing(killed_twice: tuple[Sweep, str]) -> None:
    sweep, _ = killed_twice
    sweep.check(ended=2, failed=1)
    first, _, again = sweep.study.trials
    assert first.user_attrs["error"] == "its process was killed by signal 9"
    assert (again.params, again.user_attrs["retry_of"]) == (first.params, 0)
    runs = {run.data.tags.get("trial"): run for run in Fit(sweep.folder, 0, "").runs}
    assert runs["0"].data.tags["error"] == "its process was killed by signal 9"
    assert "resumed" in runs["2"].data.tags


@pytest.mark.faults
def test_the_parent_run_contains_the_best_trial_and_the_study(killed_twice: tuple[Sweep, str]) -> None:
    sweep, output = killed_twice
    best = sweep.study.best_trial
    runs = Fit(sweep.folder, 0, "")
    (parent,) = [run for run in runs.runs if "trial" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best/val/accuracy"] == best.value
    assert parent.data.tags["best.model.optimizer.lr"] == str(best.params["model.optimizer.lr"])
    (child,) = [run for run in runs.runs if run.data.tags.get("trial") == str(best.number)]
    assert f"python -m project.fit --rerun {child.info.run_id}\n" in output
    assert parent.data.metrics["best/test/accuracy"] == child.data.metrics["test/accuracy"]
    assert child.info.run_name == f"trial {best.number} lr={best.params['model.optimizer.lr']:.3g}"
    assert f"Best: trial {best.number} with {score_text(best.value)}." in parent.data.tags[TAG]
    assert f"{child.info.run_id}) |" in parent.data.tags[TAG]
    assert "--resume" not in child.data.tags[TAG]  # The trial keeps only its weights.
    files = {entry.path for entry in runs.client.list_artifacts(parent.info.run_id, "study")}
    assert files >= {"study/trials.csv", "study/plots.html"}


@pytest.mark.faults
def test_complete_trials_keep_their_weights_and_failed_ones_nothing(killed_twice: tuple[Sweep, str]) -> None:
    sweep, _ = killed_twice
    kept = {path.parent.name: path for path in sweep.folder.glob("mlruns/checkpoints/*/*.ckpt")}
    complete = sweep.study.get_trials(states=[TrialState.COMPLETE])
    assert sorted(kept) == sorted(trial.user_attrs["run_id"] for trial in complete)
    for path in kept.values():
        weights = torch.load(path, weights_only=True)["state_dict"]
        assert path.stat().st_size < 1.1 * sum(one.nbytes for one in weights.values())
    refused = fit(sweep.folder, "--resume", next(iter(kept)), "--max_epochs", "6")
    assert refused.code == 2
    assert "without optimizer state" in refused.output and len(refused.output.splitlines()) == 1


@pytest.mark.faults
def test_trials_that_all_fail_with_one_error_end_the_sweep(tmp_path: Path, sweeps: list[Sweep]) -> None:
    sweep = Sweep(tmp_path, space={"model.optimizer.lr": {"type": "float", "low": 1e30, "high": 2e30}})
    sweeps.append(sweep)
    process = sweep.start("--n_trials", "8", "--max_epochs", "1", "--max_retries", "0")
    output = process.communicate(timeout=WAIT_S)[0]
    assert process.returncode == 1
    assert "3 trials in a row failed; the last: FloatingPointError: the loss is not finite" in output
    assert sweep.states == {TrialState.FAIL: 3}


@pytest.mark.faults
def test_a_trial_whose_loss_is_nan_is_one_failed_trial(tmp_path: Path, sweeps: list[Sweep]) -> None:
    rates = {"model.optimizer.lr": {"type": "categorical", "choices": [1e30, 1e-3]}}
    grid = {"type": "GridSampler", "search_space": {"model.optimizer.lr": [1e30, 1e-3]}}
    sweep = Sweep(tmp_path, "--n_trials", "2", "--max_epochs", "1", space=rates, sampler=grid)
    sweeps.append(sweep)
    sweep.run()
    sweep.check(ended=1, failed=1)
    (failed,) = [trial for trial in sweep.study.trials if trial.state == TrialState.FAIL]
    assert "FloatingPointError: the loss is not finite" in failed.user_attrs["error"]
    (run,) = [run for run in Fit(sweep.folder, 0, "").runs if run.info.status == "FAILED"]
    assert "the loss is not finite" in run.data.tags["error"]


@pytest.mark.faults
def test_a_sweep_that_is_killed_in_its_last_trial_resumes_it(tmp_path: Path, sweeps: list[Sweep]) -> None:
    sweep = Sweep(tmp_path, "--n_trials", "1", "--max_epochs", "6")
    sweeps.append(sweep)
    process = sweep.start()
    sweep.trains()
    process.kill()
    sweep.run()
    sweep.check(ended=1)
    (child,) = [run for run in Fit(sweep.folder, 0, "").runs if "trial" in run.data.tags]
    assert "resumed" in child.data.tags


@pytest.mark.faults
def test_two_ranks_prune_together_with_the_same_parameters(tmp_path: Path, sweeps: list[Sweep]) -> None:
    # No accuracy reaches 2, so each trial is pruned after two epochs.
    below = {"type": "ThresholdPruner", "lower": 2.0, "n_warmup_steps": 1}
    sweep = Sweep(tmp_path, "--strategy", "ddp", "--devices", "2", "--max_epochs", "9",
                  "--trainer.val_check_interval", "0.5", pruner=below)  # fmt: skip
    sweeps.append(sweep)
    sweep.run("--n_trials", "4", "--n_jobs", "2")
    sweep.check(ended=4)
    assert sweep.states == {TrialState.PRUNED: 4}
    for trial in sweep.study.trials:
        assert list(trial.intermediate_values) in ([0, 1], [0, 1, 2])  # One value per half epoch.
    assert not list(sweep.folder.glob("mlruns/checkpoints/*/*"))


@pytest.mark.faults
def test_two_sweeps_share_one_study(tmp_path: Path, sweeps: list[Sweep]) -> None:
    sweep = Sweep(tmp_path, "--max_epochs", "1", *FEW)
    sweeps.append(sweep)
    both = [sweep.start("--n_trials", "4"), sweep.start("--n_trials", "6")]
    for process in both:
        output = process.communicate(timeout=WAIT_S)[0]
        assert process.returncode == 0, output
    sweep.check(ended=6)
    (parent,) = [run for run in Fit(sweep.folder, 0, "").runs if "trial" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["trials/complete"] == sweep.states[TrialState.COMPLETE]  # The other trials were pruned.


@pytest.mark.faults
@pytest.mark.skipif(os.geteuid() != 0, reason="another pid namespace needs root")
def test_a_sweep_in_another_container_of_the_same_name_runs_other_trials(tmp_path: Path, sweeps: list[Sweep]) -> None:
    sweep = Sweep(tmp_path, "--max_epochs", "3", "--n_trials", "5")
    sweeps.append(sweep)
    container = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    command = [sys.executable, "-m", "project.sweep", "--search", "mine", "--study", "s", *sweep.options]
    first = subprocess.Popen(
        [*container, *command], cwd=sweep.folder, env=clean_environment() | {"PYTHONPATH": str(sweep.folder)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    sweep.processes.append(first)
    sweep.wait_for(lambda: sweep.began(0))
    outputs = [process.communicate(timeout=WAIT_S)[0] for process in (sweep.start(), first)]
    for process, output in zip(sweep.processes, reversed(outputs), strict=True):
        assert process.returncode == 0, output
        assert "Traceback" not in output and "ended by another" not in output
    sweep.check(ended=5)
    owners = {trial.system_attrs["owner"]["project.process.pid_namespace"] for trial in sweep.study.trials}
    assert len(owners) == 2  # Both sweeps ran trials.


@pytest.mark.faults
def test_a_sweep_waits_for_a_database_that_is_locked_for_half_a_minute(tmp_path: Path, sweeps: list[Sweep]) -> None:
    sweep = Sweep(tmp_path, "--n_trials", "3", "--n_jobs", "2", "--max_epochs", "2")
    sweeps.append(sweep)
    process = sweep.start()
    sweep.wait_for(lambda: sweep.began(0))
    hold = "import sqlite3, sys, time; sqlite3.connect(sys.argv[1], 60).execute('BEGIN EXCLUSIVE'); time.sleep(30)"
    subprocess.run([sys.executable, "-c", hold, "mlruns/optuna.db"], cwd=sweep.folder, check=True)
    output = process.communicate(timeout=WAIT_S)[0]
    assert process.returncode == 0, output
    assert "database is locked; waiting for it" in output
    assert "Traceback" not in output and "Error:" not in output
    sweep.check(ended=3)


@pytest.mark.faults
def test_each_point_of_a_pareto_front_belongs_to_one_model(tmp_path: Path, sweeps: list[Sweep]) -> None:
    metrics = {"metric": ["val/accuracy", "val/loss"], "direction": ["maximize", "minimize"]}
    # With these rates, accuracy and loss are best in different epochs.
    rates = {"model.optimizer.lr": {"type": "float", "low": 5e-3, "high": 3e-2}}
    own = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs", "--trainer.callbacks+=ModelCheckpoint"]
    sweep = Sweep(tmp_path, "--max_epochs", "6", *own, **metrics, space=rates)
    sweeps.append(sweep)
    output = sweep.run("--n_trials", "3", "--n_jobs", "2")
    assert "Pareto front of s" in output
    assert "Warning" not in output
    sweep.check(ended=3)
    runs = Fit(sweep.folder, 0, "")
    for trial in sweep.study.trials:
        accuracy, loss = (
            {point.step: point.value for point in runs.client.get_metric_history(trial.user_attrs["run_id"], name)}
            for name in metrics["metric"]
        )
        assert tuple(trial.values) in {(accuracy[step], loss[step]) for step in accuracy}
        assert trial.values[0] == max(accuracy.values())
    (parent,) = [run for run in runs.runs if "trial" not in run.data.tags]
    front = ", ".join(str(trial.number) for trial in sweep.study.best_trials)
    assert parent.data.tags["pareto.trials"] == front
    page = Path(runs.client.download_artifacts(parent.info.run_id, "study/plots.html")).read_text()
    assert "Pareto-front Plot" in page


@pytest.mark.faults
def test_one_ctrl_c_lets_trials_finish_and_a_second_stops_them(tmp_path: Path, sweeps: list[Sweep]) -> None:
    sweep = Sweep(tmp_path, "--n_trials", "3", "--max_epochs", "8")
    sweeps.append(sweep)
    process = sweep.start()
    sweep.trains()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(WAIT_S) == 130
    assert sweep.states == {TrialState.COMPLETE: 1}
    process = sweep.start("--max_retries", "0")
    sweep.trains()  # Only the weights of the complete trial are left.
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert "continue with: python -m project.sweep" in str(process.communicate()[0])
    sweep.run()
    sweep.check(ended=3)


@pytest.mark.faults
def test_a_sweep_that_is_killed_ten_times_completes_its_trials(
    tmp_path: Path, sweeps: list[Sweep], moments: Random
) -> None:
    sweep = Sweep(tmp_path, "--n_trials", "6", "--n_jobs", "2", "--max_epochs", "4")
    sweeps.append(sweep)
    for _ in range(10):
        process = sweep.start()
        time.sleep(moments.uniform(6, 22))
        process.kill()
        process.wait()
    sweep.run()
    sweep.check(ended=6)


def test_a_pickle_in_the_studys_database_runs_nothing(tmp_path: Path) -> None:
    import pickle
    import sqlite3

    storage = f"sqlite:///{tmp_path}/optuna.db"
    study = optuna.create_study(storage=storage, study_name="s")
    study.set_user_attr("settings", {})
    song = tmp_path / "song"
    code = pickle.dumps({"a": 1}).replace(b"a", b"b") + f"cos\nsystem\n(S'touch {song}'\ntR.".encode()
    with sqlite3.connect(tmp_path / "optuna.db") as database:
        database.execute("UPDATE study_user_attributes SET value_json = ?", (code,))
    with pytest.raises((json.JSONDecodeError, TypeError, UnicodeDecodeError)):
        _ = optuna.load_study(study_name="s", storage=storage).user_attrs
    assert not song.exists()
