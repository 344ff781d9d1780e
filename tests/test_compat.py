"""What project/compat.py relies on in other libraries is still there."""

import sqlite3
import warnings
from contextlib import closing
from pathlib import Path

import torch
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState
from torchmetrics import MeanMetric

from project.compat import MLFLOW_LOCATIONS, cached_storage, merge_into


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


def test_a_cached_storage_reads_a_finished_trial_once_and_sees_new_ones(tmp_path: Path) -> None:
    database = RDBStorage(f"sqlite:///{tmp_path}/optuna.db")
    cached = cached_storage(database)
    study = cached.create_new_study([StudyDirection.MAXIMIZE], "s")
    cached.set_trial_state_values(cached.create_new_trial(study), TrialState.COMPLETE, [1.0])
    (first,) = cached.get_all_trials(study, deepcopy=False)
    database.create_new_trial(study)
    again, new = cached.get_all_trials(study, deepcopy=False)
    assert again is first
    assert new.state == TrialState.RUNNING
