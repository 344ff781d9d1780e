from pathlib import Path

from conftest import Fit

from project.fit import main

FEW = [f"--trainer.limit_{split}_batches=2" for split in ("train", "val", "test")]


def best_metrics(fit: Fit) -> dict[str, float]:
    metrics = fit.run.data.metrics
    return {name.removeprefix("best/"): value for name, value in metrics.items() if name.startswith("best/")}


def test_all_best_metrics_are_of_the_validation_of_the_best_checkpoint(workplace: Path) -> None:
    # With this rate the loss grows while the accuracy of four batches changes: the best of each are not of one epoch.
    main(["--max_epochs=4", *FEW, "--model.optimizer.lr=0.1"])
    fit = Fit(workplace, 0, "")
    points: dict[int, dict[str, float]] = {}
    for name in ("val/accuracy", "val/loss"):
        for metric in fit.client.get_metric_history(fit.run.info.run_id, name):
            points.setdefault(metric.step, {})[name] = metric.value
    latest_best = max(points, key=lambda step: (points[step]["val/accuracy"], step))
    assert best_metrics(fit) == points[latest_best]
    main(
        [
            "--resume",
            fit.run.info.run_id,
            "--max_epochs=5",
            "--model.optimizer.lr=1e-9",
            "--model.optimizer.maximize=true",
        ]
    )
    assert best_metrics(fit)["val/accuracy"] >= points[latest_best]["val/accuracy"]
