"""What project/compat.py relies on in other libraries is still there."""

import sqlite3
import warnings
from contextlib import closing
from pathlib import Path

import torch
from torchmetrics import MeanMetric

from project.compat import MLFLOW_LOCATIONS, merge_into


def test_mlflow_stores_absolute_paths_in_these_columns_and_no_other(empty_store: Path) -> None:
    with closing(sqlite3.connect(empty_store)) as connection:
        columns = connection.execute(
            "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'"
        ).fetchall()
    assert set(MLFLOW_LOCATIONS) <= set(columns)
    places = {(table, column) for table, column in columns if column.endswith(("_uri", "_location"))}
    assert places - {("workspaces", "trace_archival_location")} <= set(MLFLOW_LOCATIONS)


def test_a_state_that_is_merged_into_a_metric_counts_as_an_update() -> None:
    metric = MeanMetric()
    merge_into(metric, {"mean_value": torch.tensor(6.0), "weight": torch.tensor(2.0)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metric.compute() == 3
