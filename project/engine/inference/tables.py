"""Tables as files: CSV or Parquet, by the suffix."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import csv, parquet

from project.engine.cli.command_parser import writing
from project.engine.evaluation import Draws

HIT = "hit/"
"""Start of the columns of predictions with the successes of a score."""
PREDICTIONS, RESAMPLES = "predictions.parquet", "resamples.parquet"


def write_table(columns: Mapping[str, Any], to: Path | BinaryIO) -> None:
    """Write columns of one length as Parquet to a path with the suffix `.parquet`, otherwise as CSV.

    Raises:
        OSError: The file cannot be written.
    """
    table = pa.table({name: _as_unicode(values) for name, values in columns.items()})
    with writing(to):
        if isinstance(to, Path) and to.suffix == ".parquet":
            parquet.write_table(table, to)
        else:
            csv.write_csv(table, to)


def _as_unicode(values: Any) -> Any:
    r"""Return texts as Unicode; a byte of a file's name that is not UTF-8 becomes `\xff`."""
    if not isinstance(values, list):
        return values
    return [
        one.encode(errors="surrogateescape").decode(errors="backslashreplace") if isinstance(one, str) else one
        for one in values
    ]


def write_resamples(draws: Draws, modes: Mapping[str, str], data: str, to: Path) -> None:
    """Write the values of scores in resamples as Parquet.

    Args:
        draws: The values.
        modes: `min` or `max` for the scores of which small or large values are better.
        data: Digest of the samples that were drawn from.
        to: The file.
    """
    table = pa.table(dict(draws)).replace_schema_metadata({"data": data, "modes": json.dumps(dict(modes))})
    parquet.write_table(table, to)


def read_resamples(file: Path) -> tuple[Draws, dict[str, str], str]:
    """Read what `write_resamples` has written: values, modes and the digest of the data."""
    table = parquet.read_table(file)
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    draws = {name: column.to_numpy() for name, column in zip(table.column_names, table.columns, strict=True)}
    return draws, json.loads(metadata["modes"]), metadata["data"]
