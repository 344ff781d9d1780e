"""The metrics of a run at one moment: when its best checkpoint was validated."""

from collections.abc import Iterable, Mapping, Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric

Points = Mapping[str, Sequence[tuple[int, float]]]
_BEST, _OF_THE_BEST, _OF_THE_MACHINE = "best/", "test/", "system/"


def metrics_at_best(points: Points, best: Mapping[str, float]) -> dict[str, float]:
    """Return one value of each metric, all of the same checkpoint.

    Metrics of the test are those of the best checkpoint. Other metrics, such as those of training, have the value
    that was logged last when the best checkpoint was validated. A metric that was logged only later has its first
    value. Without a best checkpoint, the model is the last one, and each metric has its last value.

    Args:
        points: Step and value of each point, by metric.
        best: All metrics of the best checkpoint's validation; empty without one.

    Returns:
        The metrics by name. Those of training are missing if the validation is not among the points.
    """
    if not best:
        return {name: values[-1][1] for name, values in points.items()}
    steps = [{step for step, value in points.get(name, ()) if value == score} for name, score in best.items()]
    found = {name: values[-1][1] for name, values in points.items() if name.startswith((_OF_THE_BEST, _BEST))}
    if common := set.intersection(*steps):
        at = max(common)  # the latest of equal values
        for name, values in points.items():
            earlier = [value for step, value in values if step <= at]
            found.setdefault(name, earlier[-1] if earlier else values[0][1])
    return {**found, **best}


def metrics_of_run(client: MlflowClient, run_id: str, names: Iterable[str] | None = None) -> dict[str, float]:
    """Return metrics of a run that has ended, all of its best checkpoint.

    Args:
        client: Client of the MLflow store.
        run_id: The run.
        names: Metrics to look for; None is all but those of the machine.

    Raises:
        MlflowException: The store does not respond.
    """
    latest = client.get_run(run_id).data.metrics
    best = {name.removeprefix(_BEST): value for name, value in latest.items() if name.startswith(_BEST)}
    if names is None:
        names = [name for name in latest if not name.startswith((_BEST, _OF_THE_MACHINE))]
    wanted = {name for name in names if name in latest}
    if wanted - set(best):
        histories = {name: client.get_metric_history(run_id, name) for name in wanted | (set(best) & set(latest))}
        points = {name: _in_order(history) for name, history in histories.items()}
        best = metrics_at_best(points, best)
    return {name: value for name, value in best.items() if name in wanted}


def _in_order(history: Sequence[Metric]) -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in sorted(history, key=lambda one: (one.step, one.timestamp))]
