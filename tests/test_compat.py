"""What project/compat.py relies on in other libraries is still there."""

import sqlite3
from contextlib import closing
from pathlib import Path

from project.compat import MLFLOW_LOCATIONS


def test_mlflow_stores_absolute_paths_in_these_columns_and_no_other(empty_store: Path) -> None:
    with closing(sqlite3.connect(empty_store)) as connection:
        columns = connection.execute(
            "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'"
        ).fetchall()
    assert set(MLFLOW_LOCATIONS) <= set(columns)
    places = {(table, column) for table, column in columns if column.endswith(("_uri", "_location"))}
    assert places - {("workspaces", "trace_archival_location")} <= set(MLFLOW_LOCATIONS)
