"""The locations of artifacts in a moved or copied folder; MLflow's store holds absolute paths."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from project.engine.compat import MLFLOW_LOCATIONS

_WAIT_S = 30.0


def keep_locations_within(home: Path, database: Path) -> None:
    """Change the locations of artifacts from earlier paths of a folder to its current path.

    A folder may be mounted at two paths, as in a container. Each command then changes the locations to its own path,
    and again before it sends a file.

    Args:
        home: Folder of the store, absolute. Locations outside its earlier paths are not changed.
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
    """Find earlier paths of the folder by experiments located in it: MLflow's first, and those of `fit`."""
    homes: set[Path] = set()
    for number, name, location in connection.execute(
        "SELECT experiment_id, name, artifact_location FROM experiments WHERE artifact_location IS NOT NULL"
    ):
        path = Path(unquote(urlsplit(location).path) if location.startswith("file:") else location)
        place = "0" if number == 0 else f"artifacts/{name}"
        if path.is_absolute() and str(path).endswith(f"/{home.name}/{place}"):
            homes.add(Path(str(path).removesuffix(f"/{place}")))
    # An existing folder without a database was chosen by the user for the artifacts of this store.
    return [
        earlier
        for earlier in homes - {home}
        if not earlier.exists() or ((earlier / database.name).exists() and not earlier.samefile(home))
    ]
