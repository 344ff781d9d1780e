"""Artifacts that follow their folder: MLflow's store holds absolute paths, which a moved or copied folder leaves."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from project.engine.compat import MLFLOW_LOCATIONS

_WAIT_S = 30.0


def keep_locations_within(home: Path, database: Path) -> None:
    """Change the locations of artifacts from where a folder was to where it is.

    A folder that is mounted at two places, as in a container, is at both: each command changes them to its own, and
    does so again before it sends a file.

    Args:
        home: The folder of the store, absolute. What is not in an earlier place of it stays as it is.
        database: MLflow's SQLite database in this folder.

    Raises:
        sqlite3.Error: The database cannot be written.
    """
    with closing(sqlite3.connect(database, timeout=_WAIT_S)) as connection, connection:
        for earlier in _earlier_homes(home, database, connection):
            for old, new in ((earlier.as_uri(), home.as_uri()), (str(earlier), str(home))):
                for table, column in MLFLOW_LOCATIONS:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, len(old) + 1, f"{old}/"),
                    )


def _earlier_homes(home: Path, database: Path, connection: sqlite3.Connection) -> list[Path]:
    """Find where the folder was, by the experiments whose place in it is known: MLflow's first, and those of `fit`."""
    homes: set[Path] = set()
    for number, name, location in connection.execute(
        "SELECT experiment_id, name, artifact_location FROM experiments WHERE artifact_location IS NOT NULL"
    ):
        path = Path(unquote(urlsplit(location).path) if location.startswith("file:") else location)
        for place in ("0",) if number == 0 else (f"artifacts/{name}",):
            if path.is_absolute() and str(path).endswith(f"/{home.name}/{place}"):
                homes.add(Path(str(path).removesuffix(f"/{place}")))
    # A folder that is there without a database is where the artifacts of this store were put on purpose.
    return [
        earlier
        for earlier in homes - {home}
        if not earlier.exists() or ((earlier / database.name).exists() and not earlier.samefile(home))
    ]
