"""The compared runs, with what they recorded and the stored predictions of an evaluation."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
from pyarrow import parquet

from project.engine.compat import latest_metrics
from project.engine.evaluation import Draws
from project.engine.inference.tables import HIT, PREDICTIONS, RESAMPLES, read_resamples
from project.engine.tracking.names import BEST, EVALUATION
from project.engine.tracking.recorded import Records, recorded
from project.engine.tracking.run_reference import find

_SPLITS = ("test", "val")
_LABEL = 8


class Predictions(NamedTuple):
    """The results that an evaluation stored for each sample and for each resample.

    Attributes:
        data: Digest of the samples.
        hits: Which samples are successes, (N,), by score.
        draws: Values in resamples, by score.
        modes: `min` or `max`, by score.
    """

    data: str
    hits: Mapping[str, NDArray[np.bool_]]
    draws: Draws
    modes: Mapping[str, str]


class ComparedRun(NamedTuple):
    """A run of a comparison.

    Attributes:
        run: The MLflow run.
        reason: Why the reference means this run; empty if its id was given.
        recorded: What it recorded of its settings, code, packages, data and devices.
        predictions: The stored predictions; None without them.
        metrics: The last value of each metric.
    """

    run: Run
    reason: str
    recorded: Records
    predictions: Predictions | None
    metrics: Mapping[str, float]

    @property
    def id(self) -> str:
        """The id of the run."""
        return str(self.run.info.run_id)

    @property
    def label(self) -> str:
        """The first characters of the id."""
        return self.id[:_LABEL]


def find_runs(client: MlflowClient, references: Sequence[str], split: str | None) -> tuple[list[ComparedRun], str]:
    """Look up runs and read what they stored. Return them and the compared split.

    Args:
        client: Client of the store.
        references: See `project.engine.tracking.run_reference`.
        split: The evaluated split; None means test, or val if no run was evaluated on test.

    Raises:
        ValueError: A reference means no run, several, or the run of another reference.
    """
    found = [find(client, reference) for reference in references]
    ids = [run.info.run_id for run, _ in found]
    if repeated := [run_id for run_id in ids if ids.count(run_id) > 1]:
        raise ValueError(
            f"got {', '.join(references)}, two of which are the same run {repeated[0]}; name another run instead"
        )
    evaluated = {one for one in _SPLITS for run, _ in found if f"{EVALUATION}/{one}" in run.data.tags}
    chosen = split or next((one for one in _SPLITS if one in evaluated), _SPLITS[0])
    return [
        ComparedRun(run, reason, recorded(client, run), _predictions(client, run.info.run_id, chosen), run.data.metrics)
        for run, reason in found
    ], chosen


def without_outdated(client: MlflowClient, run: ComparedRun, split: str) -> ComparedRun:
    """Return a run without its evaluation on a split if its training, when resumed, found a better checkpoint since."""
    points = latest_metrics(run.run)
    step = max((_begins(client, run.id, point.key) for point in points if point.key.startswith(BEST)), default=0)
    outdated = {point.key for point in points if point.key.startswith(_evaluated(split)) and point.step < step}
    metrics = {name: value for name, value in run.metrics.items() if name not in outdated}
    return run._replace(metrics=metrics, predictions=None if outdated else run.predictions)


def _begins(client: MlflowClient, run_id: str, metric: str) -> int:
    """Return the step since which a metric has its last value."""
    points = sorted(client.get_metric_history(run_id, metric), key=lambda point: (point.step, point.timestamp))
    same = takewhile(lambda point: point.value == points[-1].value, reversed(points))
    return min((point.step for point in same), default=0)


def _evaluated(split: str) -> tuple[str, str]:
    """Return the starts of the names of metrics of an evaluation."""
    return f"{EVALUATION}/{split}/", f"{EVALUATION}/{split}_"


def _predictions(client: MlflowClient, run_id: str, split: str) -> Predictions | None:
    with TemporaryDirectory() as folder:

        def fetch(name: str) -> Path | None:
            try:
                return Path(client.download_artifacts(run_id, f"{EVALUATION}/{split}/{name}", folder))
            except (MlflowException, OSError):  # The run was not evaluated, or its task has no such file.
                return None

        if (resamples := fetch(RESAMPLES)) is None:
            return None
        draws, modes, data = read_resamples(resamples)
        hits = {}
        if (samples := fetch(PREDICTIONS)) is not None:
            names = [name for name in parquet.read_schema(samples).names if name.startswith(HIT)]
            columns = parquet.read_table(samples, columns=names).to_pydict()
            hits = {name.removeprefix(HIT): np.array(values, bool) for name, values in columns.items()}
        return Predictions(data, hits, draws, modes)


def why_not_tested(runs: Sequence[ComparedRun], split: str) -> list[str]:
    """Return a line for each run that has no stored predictions, or predictions for other data than the first run."""
    stored = [run.predictions for run in runs if run.predictions is not None]
    lines = []
    for run in runs:
        if run.predictions is None:
            option = "" if split == _SPLITS[0] else f" --split {split}"
            lines.append(
                f"{run.label} is not tested, because it has no stored predictions of its best checkpoint: "
                f"python -m project.evaluate {run.id}{option}"
            )
        elif run.predictions.data != stored[0].data:
            lines.append(
                f"{run.label} is not tested, because its {split} data are different: their digest is "
                f"{run.predictions.data}, not {stored[0].data}"
            )
    return lines
