"""Tables as files: CSV or Parquet, by the suffix."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv, parquet


def write_csv(columns: Mapping[str, Any], path: Path) -> None:
    """Write columns of one length as CSV."""
    csv.write_csv(pa.table(dict(columns)), path)


def write_parquet(columns: Mapping[str, Any], path: Path) -> None:
    """Write columns of one length as Parquet."""
    parquet.write_table(pa.table(dict(columns)), path)
