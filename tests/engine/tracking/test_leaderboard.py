"""The view of an experiment in MLflow's UI: columns, order and charts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from project.engine.tracking.leaderboard import publish, shared_view

LOSS, ACCURACY = "val/loss (min)", "val/accuracy (max)"
METRICS = ["best/val/accuracy", "best/val/loss", "epoch", "lr", "data/wait_fraction", "system/cpu", "test/accuracy",
           "train/accuracy", "train/loss", "train/loss_epoch", "val/accuracy", "val/loss"]  # fmt: skip


def log_run(client: MlflowClient, monitor: str, params: Mapping[str, Any], start_time: int) -> None:
    tags = {"monitor": monitor} if monitor else {}
    run_id = client.create_run("0", tags=tags, start_time=start_time).info.run_id
    for name, value in params.items():
        client.log_param(run_id, name, value)
    for name in METRICS:
        client.log_metric(run_id, name, 0.5)


def view_of(*runs: tuple[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the view of runs, of which the last is the newest, as a browser reads it from the store."""
    client = MlflowClient()
    for number, (monitor, params) in enumerate(runs):
        log_run(client, monitor, params, number + 1)
    assert publish(client) == "/#/experiments/0/runs?workflowType=machine_learning&viewStateShareKey=leaderboard"
    view = json.loads(client.get_experiment("0").tags["mlflow.sharedViewState.leaderboard"])
    assert isinstance(view, dict)
    return view


def charts(view: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """Return the metrics of each chart, by section."""
    names = {section["uuid"]: section["name"] for section in view["compareRunSections"]}
    shown: dict[str, list[list[str]]] = {name: [] for name in names.values()}
    for card in view["compareRunCharts"]:
        if not card["deleted"]:
            shown[names[card["metricSectionId"]]].append(card.get("selectedMetricKeys") or [card["metricKey"]])
    return shown


def test_the_runs_are_sorted_by_the_best_value_of_the_monitored_metric(workplace: Path) -> None:
    view = view_of((LOSS, {"lr": 1}), (ACCURACY, {"lr": 1}))
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`best/val/accuracy`", False)


def test_the_newest_run_names_the_metric_and_its_direction(workplace: Path) -> None:
    view = view_of((ACCURACY, {"lr": 1}), (LOSS, {"lr": 1}))
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`best/val/loss`", True)


def test_the_columns_are_the_scores_and_the_parameters_that_vary(workplace: Path) -> None:
    same = {"epochs": 3, "seed": 0}
    view = view_of((ACCURACY, same | {"lr": 0.1, "net.width": 8}), (ACCURACY, same | {"lr": 0.2}), ("", {}))
    assert [name for name in view["selectedColumns"] if name.startswith(("metrics", "params"))] == [
        "metrics.`best/val/accuracy`", "metrics.`test/accuracy`", "params.`lr`", "params.`net.width`",
    ]  # fmt: skip


def test_curves_come_first_and_each_metric_has_one_chart_or_none(workplace: Path) -> None:
    view = view_of((ACCURACY, {}))
    shown = charts(view)
    assert list(shown) == ["training", "final scores", "data", "System metrics"]
    assert shown["training"] == [["train/accuracy", "val/accuracy"], ["train/loss", "val/loss"], ["lr"]]
    assert shown["final scores"] == [["best/val/accuracy"], ["test/accuracy"]]
    assert sorted(card["metricKey"] for card in view["compareRunCharts"]) == sorted(METRICS)
    assert view["globalLineChartConfig"]["selectedXAxisMetricKey"] == "epoch"


def test_an_empty_store_has_a_page(workplace: Path) -> None:
    assert publish(MlflowClient()) == "/#/experiments?workflowType=machine_learning"
    assert charts(shared_view([])) == {}


def test_the_state_of_trials_is_a_column(workplace: Path) -> None:
    client = MlflowClient()
    assert "tags.`state`" not in view_of((ACCURACY, {"lr": 1}))["selectedColumns"]
    run_id = client.create_run("0", tags={"monitor": ACCURACY, "state": "pruned"}, start_time=9).info.run_id
    assert "tags.`state`" in shared_view([client.get_run(run_id)])["selectedColumns"]
