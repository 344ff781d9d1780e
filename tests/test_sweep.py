import subprocess
import sys
from pathlib import Path

import optuna
from conftest import Fit, clean_environment

FEW = [f"--trainer.limit_{split}_batches=2" for split in ("train", "val", "test")]


def test_a_sweep_runs_trials_as_children_of_one_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "project.sweep", "--search", "cnn", "--study", "s", "--n_jobs", "2"]
    done = subprocess.run(
        [*command, "--n_trials", "2", "--max_epochs", "1", *FEW],
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/mlruns/optuna.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
    runs = {run.data.tags.get("trial"): run for run in Fit(tmp_path, 0, "").runs}
    assert set(runs) == {None, "0", "1"}
    for trial in study.trials:
        child = runs[str(trial.number)]
        assert child.info.status == "FINISHED"
        assert child.data.tags["mlflow.parentRunId"] == runs[None].info.run_id
        assert child.data.metrics["val/accuracy"] == trial.value
        assert float(child.data.params["model.optimizer.lr"]) == trial.params["model.optimizer.lr"]
    assert "python -m project.fit --max_epochs 1" in done.stdout
