"""All metrics of a trial are those of one model."""

from multiprocessing import Pipe
from pathlib import Path

import pytest
from conftest import SMALL_NET
from mlflow import MlflowClient

from project.engine.search.moment import metrics_at_best, metrics_of_run
from project.engine.search.reporter import Reporter
from project.fit import main

METRICS = ["val/accuracy", "val/loss", "train/accuracy", "train/loss", "throughput/images_per_second", "test/accuracy"]
POINTS = {
    "val/accuracy": [(9, 0.5), (19, 0.9), (29, 0.8)],
    "val/loss": [(9, 0.6), (19, 0.4), (29, 0.3)],
    "train/loss": [(0, 2.0), (15, 1.0), (25, 0.1)],
    "late": [(25, 7.0)],
    "test/accuracy": [(30, 0.85)],
}


def test_metrics_are_those_of_the_best_validation() -> None:
    found = metrics_at_best(POINTS, {"val/accuracy": 0.9, "val/loss": 0.4})
    assert found == {"val/accuracy": 0.9, "val/loss": 0.4, "train/loss": 1.0, "late": 7.0, "test/accuracy": 0.85}


def test_of_equal_validations_the_latest_counts() -> None:
    points = POINTS | {"val/accuracy": [(9, 0.9), (29, 0.9)], "val/loss": [(9, 0.4), (29, 0.4)]}
    assert metrics_at_best(points, {"val/accuracy": 0.9, "val/loss": 0.4})["train/loss"] == 0.1


def test_a_validation_of_an_earlier_process_has_no_metrics_of_training_here() -> None:
    assert metrics_at_best(POINTS, {"val/loss": 0.2}) == {"val/loss": 0.2, "test/accuracy": 0.85}


def test_without_a_best_checkpoint_metrics_are_the_last() -> None:
    last = {"val/accuracy": 0.8, "val/loss": 0.3, "train/loss": 0.1, "late": 7.0, "test/accuracy": 0.85}
    assert metrics_at_best(POINTS, {}) == last


@pytest.mark.parametrize("monitor", ["val/accuracy", pytest.param("val/loss", marks=pytest.mark.faults)])
def test_a_trial_reports_points_of_one_step_of_its_run(monitor: str, workplace: Path) -> None:
    """The rate makes the metrics get worse after their best, each at its own epoch."""
    reporter = Reporter(Pipe()[0], METRICS)
    options = [
        "--max_epochs=6",
        "--model.optimizer.lr=0.02",
        "--data.batch_size=32",
        f"--checkpoint.monitor={monitor}",
        *SMALL_NET,
        "--model.class_path=tiny.TinyTask",
    ]
    main([*options, "--trainer.limit_train_batches=8", "--trainer.log_every_n_steps=3"], [reporter])
    client = MlflowClient()
    (run,) = client.search_runs(["1"])
    history = {
        name: {point.step: point.value for point in client.get_metric_history(run.info.run_id, name)}
        for name in METRICS
    }
    best = (max if monitor == "val/accuracy" else min)(history[monitor].values())
    step = max(step for step, value in history[monitor].items() if value == best)
    expected = {name: points.get(step) or points[max(s for s in points if s <= step)]
                for name, points in history.items() if name != "test/accuracy"}  # fmt: skip
    expected["test/accuracy"] = run.data.metrics["test/accuracy"]
    assert metrics_of_run(client, run.info.run_id, METRICS) == expected
    in_training = [name for name in METRICS if name.startswith(("train/", "throughput/"))]
    assert dict(zip(METRICS, reporter.values(), strict=True)) == expected | dict.fromkeys(in_training)
