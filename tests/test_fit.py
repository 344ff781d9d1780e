import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import harmonic_mean

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import SMALL_NET, Fit, clean_environment, copy_store, first_command, fit, run_ranks

from project.engine.cli import config_groups
from project.fit import main

METRICS = {
    "train/loss", "train/loss_epoch", "train/accuracy", "val/loss", "val/accuracy", "test/loss", "test/accuracy",
    "throughput/images_per_second", "data/wait_fraction", "lr", "system/cpu_utilization_percentage",
}  # fmt: skip
ARTIFACTS = {
    "config.yaml", "requirements.txt",
    "test/confusion_matrix.png", "test/worst_mistakes.png", "test/per_class_accuracy.csv",
}  # fmt: skip


@pytest.mark.faults  # It takes most of a minute.
def test_the_first_command_of_the_readme_learns_the_digits(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, *first_command()[1:]], cwd=tmp_path, env=clean_environment(), check=False)
    assert done.returncode == 0
    assert Fit(tmp_path, 0, "").run.data.metrics["test/accuracy"] >= 0.98


def test_two_epochs_of_the_main_job_learn_most_digits(main_job: Fit) -> None:
    assert main_job.code == 0, main_job.output
    assert main_job.run.data.metrics["test/accuracy"] >= 0.93


def test_the_printed_and_the_compared_speed_are_the_mean_of_the_whole_training(main_job: Fit) -> None:
    printed = re.search(r"images per second +([\d,]+)\n", main_job.output)
    assert printed is not None
    windows = main_job.client.get_metric_history(main_job.run.info.run_id, "throughput/images_per_second")
    # Each logging interval has ten batches, and the last batch of an epoch is smaller.
    speed = harmonic_mean([window.value for window in windows])
    assert int(printed[1].replace(",", "")) == pytest.approx(speed, rel=0.05)
    compared = main_job.run.data.metrics["throughput/average_samples_per_second"]
    assert f"{compared:,.0f}" == printed[1]


def test_the_summary_lists_places_and_the_next_commands(main_job: Fit) -> None:
    run_id = main_job.run.info.run_id
    for words in ("test accuracy", "images per second", run_id, f"mlruns/checkpoints/{run_id}/best-epoch"):
        assert words in main_job.output
    for command in (
        "ui",
        "sweep --search cnn --max_epochs 2 --model.net.widths",
        f"fit --resume {run_id} --max_epochs 4",
    ):
        assert f"python -m project.{command}" in main_job.output
    assert "Warning" not in main_job.output
    assert "INFO" not in main_job.output


def test_a_fit_is_one_finished_run_with_all_artifacts(main_job: Fit) -> None:
    run = main_job.run
    assert run.info.status == "FINISHED"
    assert set(run.data.metrics) >= METRICS
    assert main_job.artifacts() >= ARTIFACTS
    assert run.info.run_name == "cnn widths=16,16,32,64 lr=0.005 max_epochs=2"
    assert main_job.client.get_experiment(run.info.experiment_id).name == "digits"
    assert run.data.params["model.optimizer.lr"] == "0.005"
    assert run.data.params["data.augmentation.crop_padding"] == "2"
    assert len(run.data.tags["git.commit"]) == 40
    assert run.data.tags["git.dirty"] in ("true", "false")
    assert run.data.tags["strategy"] == "single"
    assert "torch==" in main_job.text("requirements.txt")
    (dataset,) = [entry.dataset for entry in run.inputs.dataset_inputs]
    assert (dataset.name, len(dataset.digest)) == ("digits", 8)
    profile = json.loads(dataset.profile)
    assert (profile["num_train"], profile["num_val"], profile["num_test"], profile["classes"]) == (1293, 144, 360, 10)
    assert profile["class 0"] == {"train": 128, "val": 14, "test": 36}


def test_metrics_have_one_point_per_logging_interval_or_epoch(main_job: Fit) -> None:
    history = main_job.client.get_metric_history
    steps = [metric.step for metric in history(main_job.run.info.run_id, "train/loss")]
    assert steps == list(range(82))  # An epoch has 41 batches.
    assert len(history(main_job.run.info.run_id, "val/accuracy")) == 2


def test_the_logged_model_serves_images_of_any_size(main_job: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{main_job.folder}/mlruns/mlflow.db")
    (output,) = main_job.run.outputs.model_outputs
    model = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    draw = np.random.default_rng(0)
    shapes = [(32, 32), (50, 31, 1), (40, 90, 3)]
    answers = model.predict(pd.DataFrame({"pixels": [draw.integers(0, 256, shape, np.uint8) for shape in shapes]}))
    assert [list(answer["probabilities"]) for answer in answers] == [list("0123456789")] * 3
    for answer in answers:
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        assert (
            answer["probabilities"][answer["class"]] == answer["probability"] == max(answer["probabilities"].values())
        )
    assert model.metadata.metadata["class_names"] == list("0123456789")
    assert list(model.input_example) == ["image"]


def test_the_logged_configuration_starts_the_same_run_again(main_job: Fit, workplace: Path) -> None:
    Path("again.yaml").write_text(main_job.text("config.yaml"))
    main(["--config", "again.yaml", "--trainer.fast_dev_run", "1"])
    first = yaml.safe_load(main_job.text("config.yaml"))
    assert first["groups"] == {"data": "digits", "model": "cnn", "strategy": "single", "experiment": None}
    assert not (workplace / "mlruns/checkpoints").exists()  # `fast_dev_run` creates no run.


@pytest.mark.faults
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_leave_the_same_results_as_one(strategy: str, main_job: Fit, tmp_path: Path) -> None:
    few = ["--trainer.limit_train_batches=4", "--trainer.limit_val_batches=2", "--trainer.log_every_n_steps=2"]
    options = ["--strategy", strategy, "--max_epochs", "1", *SMALL_NET, *few]
    if strategy == "ddp":  # Lightning starts the second process.
        done = fit(tmp_path, *options)
        assert done.code == 0, done.output
    else:
        copy_store(tmp_path)
        done = Fit(tmp_path, 0, run_ranks("project.fit", *options, folder=tmp_path))
    assert done.run.info.status == "FINISHED"
    assert done.run.data.tags["devices"] == "2 CPU"
    assert set(done.run.data.metrics) >= METRICS
    assert done.artifacts() == main_job.artifacts()
    assert len(done.run.outputs.model_outputs) == 1
    rows = done.text("test/per_class_accuracy.csv").splitlines()[1:]
    assert sum(int(row.split(",")[1]) for row in rows) == 360  # Each test image is counted once.
    assert done.output.count("epoch 1 of 1: ") == done.output.count("test accuracy") == 1
    checkpoints = {path.name for path in (tmp_path / "mlruns/checkpoints" / done.run.info.run_id).iterdir()}
    assert checkpoints == {"last.ckpt", "best-epoch000.ckpt"}


YAMLS = [(group, name) for group in config_groups.GROUPS for name in config_groups.choices(group)]
# The fit with two processes, the main job and the experiments run these.
TESTED = [("strategy", "ddp"), ("strategy", "fsdp"), *config_groups.DEFAULTS.items(), ("data", "cifar10"),
          ("model", "torchvision"), ("model", "whitened_cnn")]  # fmt: skip
SLOW = [("data", "fashion_mnist"), ("experiment", "cifar10_fast_cpu")]


@pytest.mark.parametrize(
    ("group", "name"),
    [
        pytest.param(*one, marks=pytest.mark.faults if one in SLOW else ())  # These are variants of others.
        for one in YAMLS
        if one not in TESTED
    ],
)
def test_every_yaml_runs_a_batch(
    group: str, name: str, workplace: Path, datasets: None, capsys: pytest.CaptureFixture[str]
) -> None:
    # A step with the article's 32x32 kernels takes seconds on a CPU. A few channels run the same code.
    small = ["--model.net.widths=[2,2,2,4]"] if name == "article" else ["--data.batch_size=8"]
    main([f"--{group}", name, *small, "--trainer.fast_dev_run", "1"])
    assert "accuracy" in capsys.readouterr().out
