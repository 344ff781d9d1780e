"""The page of an experiment in MLflow's UI: its run table as a leaderboard, and its charts in a useful order.

MLflow's UI stores a shared view as a tag of the experiment, and shows it at an address that names the view.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from project.engine.tracking.experiments import NEWEST_FIRST, newest_runs
from project.engine.tracking.tags import MONITOR, STATE, monitored

VIEW = "leaderboard"
_TAG = f"mlflow.sharedViewState.{VIEW}"
_LONGEST_TAG = 20_000  # MLflow's limit
_MOST_RUNS, _MOST_PARAMS, _MOST_SCORES = 500, 6, 4
_TRAIN, _VAL, _BEST, _SYSTEM = "train/", "val/", "best/", "system/"
_FINAL = (_BEST, "test")
_AXIS = "epoch"
_DURATION, _WIDTH = "attributes.`Duration`", 120

Json = dict[str, Any]


def publish(client: MlflowClient) -> str:
    """Store the view of the experiment with the newest run, and return its address without the server's part."""
    if not (newest := newest_runs(client, most=1)):
        return "/#/experiments?workflowType=machine_learning"
    experiment = newest[0].info.experiment_id
    runs: Sequence[Run] = client.search_runs([experiment], order_by=[NEWEST_FIRST], max_results=_MOST_RUNS)
    client.set_experiment_tag(experiment, _TAG, _compact(shared_view(runs)))
    return f"/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def shared_view(runs: Sequence[Run]) -> Json:
    """Return the state of the UI: the columns of the run table, its order, and the charts.

    Args:
        runs: Runs of one experiment, the newest first.
    """
    metrics = sorted({name for run in runs for name in run.data.metrics})
    monitor, mode = _monitored(runs)
    score = _BEST + monitor if _BEST + monitor in metrics else monitor
    tests = [name for name in metrics if name.startswith("test")]
    scores = list(dict.fromkeys([*([score] if score in metrics else []), *tests]))[:_MOST_SCORES]
    params = varying_params(runs)
    columns = [
        *(f"metrics.`{name}`" for name in scores),
        *(f"params.`{name}`" for name in params),
        *([f"tags.`{STATE}`"] if any(STATE in run.data.tags for run in runs) else []),
        _DURATION,
    ]
    order = {"orderByKey": f"metrics.`{score}`", "orderByAsc": mode == "min"} if scores[:1] == [score] else {}
    cards, sections = _charts(metrics, monitor, scores)
    return {
        **order,
        "selectedColumns": columns,
        "columnOrder": ["attributes.`Run Name`", "runDateAndNestInfo", *columns],
        "columnWidths": {"attributes.`Run Name`": 240, "runDateAndNestInfo": 140}
        | dict.fromkeys(columns, _WIDTH)
        | {_DURATION: 90},
        "compareRunCharts": cards,
        "compareRunSections": sections,
        "isAccordionReordered": True,  # Otherwise the UI sorts the sections by name.
        "globalLineChartConfig": {
            "xAxisKey": "metric" if _AXIS in metrics else "step",
            "selectedXAxisMetricKey": _AXIS if _AXIS in metrics else "",
            "lineSmoothness": 0,
        },
    }


def varying_params(runs: Sequence[Run]) -> list[str]:
    """Return the parameters in which runs differ, first those of all runs, then those with the most values."""
    # The run of a study has no values of the settings that it searches.
    parents = {run.data.tags.get(MLFLOW_PARENT_RUN_ID) for run in runs}
    fits = [run.data.params for run in runs if run.data.params and run.info.run_id not in parents]
    values = {name: {params.get(name, "None") for params in fits} for params in fits for name in params}
    varying = [name for name, found in values.items() if len(found) > 1]
    return sorted(varying, key=lambda name: ("None" in values[name], -len(values[name]), name))[:_MOST_PARAMS]


def shown_curves(metrics: Sequence[str], runs: Sequence[Run]) -> list[list[str]]:
    """Return the metrics of each chart of training: those of training and validation share a chart.

    Args:
        metrics: Names of all metrics of the runs.
        runs: The runs, the newest first.
    """
    return list(_curves(metrics, _monitored(runs)[0]))


def comparison_page(runs: Sequence[Run]) -> str:
    """Return the address of MLflow's page that compares these runs, without the server's part."""
    experiments = dict.fromkeys(run.info.experiment_id for run in runs)
    lists = {"runs": [run.info.run_id for run in runs], "experiments": list(experiments)}
    return "/#/compare-runs?" + urlencode({name: json.dumps(ids, separators=(",", ":")) for name, ids in lists.items()})


def _monitored(runs: Sequence[Run]) -> tuple[str, str]:
    """Return the monitored metric of the newest run that has one, and its direction; else two empty texts."""
    return monitored(next((run.data.tags for run in runs if MONITOR in run.data.tags), {}))


def _charts(metrics: Sequence[str], monitor: str, scores: Sequence[str]) -> tuple[list[Json], list[Json]]:
    """Return the charts and their sections: curves of training, final scores, and the other metrics by prefix."""
    cards: list[Json] = []
    sections: dict[str, str] = {}

    def add(section: str, kind: str, shown: Sequence[str], **settings: Any) -> None:
        uuid = sections.setdefault(section, f"{VIEW}-section-{len(sections)}")
        name = {"displayName": shown[-1].removeprefix(_VAL)} if len(shown) > 1 else {}
        cards.append({**_card(len(cards), kind, shown[-1]), "metricSectionId": uuid, **name, **settings})

    curves = list(_curves(metrics, monitor))
    for shown in curves:
        add("training", "LINE", shown, selectedMetricKeys=shown, **_LINE)
    for score in scores:
        add("final scores", "BAR", [score])
    placed = {name for shown in curves for name in shown} | set(scores)
    for name in metrics:
        if name.startswith(_SYSTEM):
            add("System metrics", "LINE", [name], **{**_LINE, "xAxisKey": "time", "useGlobalXaxisKey": False})
        elif name not in placed and name != _AXIS and not name.startswith(_FINAL) and not name.endswith("_epoch"):
            add(name.rpartition("/")[0] or "others", "LINE", [name], **_LINE)
    # The UI adds a chart for each metric without one, unless the chart was deleted.
    known = {card["metricKey"] for card in cards}
    cards += [
        _card(len(cards) + n, "BAR", name) | {"deleted": True} for n, name in enumerate(metrics) if name not in known
    ]
    return cards, [
        {"uuid": uuid, "name": name, "display": name != "System metrics", "isReordered": True}
        for name, uuid in sections.items()
    ]


def _curves(metrics: Sequence[str], monitor: str) -> Iterator[list[str]]:
    """Yield the metrics of each chart of training: the monitored one first, then the losses and the learning rate."""

    def pair(val: str) -> list[str]:
        return [name for name in (_TRAIN + val.removeprefix(_VAL), val) if name in metrics]

    losses = [name for name in metrics if name.startswith(_VAL) and name.endswith("loss")]
    others = [name for name in metrics if name.startswith(_VAL)]
    for name in dict.fromkeys([monitor, *losses, "lr", *others]):
        if name in metrics:
            yield pair(name) if name.startswith(_VAL) else [name]


_LINE: Mapping[str, Any] = {
    "lineSmoothness": 0,
    "xAxisScaleType": "linear",
    "scaleType": "linear",
    "range": {},
    "xAxisKey": "step",
    "selectedXAxisMetricKey": "",
    "yAxisKey": "metric",
    "yAxisExpressions": [],
    "useGlobalXaxisKey": True,
    "useGlobalLineSmoothing": True,
}


def _card(number: int, kind: str, metric: str) -> Json:
    return {
        "uuid": f"{VIEW}-chart-{number}",
        "type": kind,
        "metricKey": metric,
        "runsCountToCompare": 10,
        "deleted": False,
        "isGenerated": False,
    }


def _compact(view: Json) -> str:
    """Return the view as JSON; without charts if MLflow would refuse it."""
    text = json.dumps(view, separators=(",", ":"))
    if len(text) <= _LONGEST_TAG:
        return text
    return _compact({key: value for key, value in view.items() if not key.startswith("compareRun")})
