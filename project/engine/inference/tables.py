"""Tables as files: CSV or Parquet, by the suffix."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import csv, parquet

SUFFIXES = (".csv", ".parquet")


def write_table(columns: Mapping[str, Any], to: Path | BinaryIO) -> None:
    """Write columns of one length as Parquet to a path with the suffix `.parquet`, otherwise as CSV."""
    table = pa.table(dict(columns))
    if isinstance(to, Path) and to.suffix == ".parquet":
        parquet.write_table(table, to)
    else:
        csv.write_csv(table, to)
