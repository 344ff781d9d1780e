"""The lines and the options that all benchmarks have in common.

A benchmark prints JSON objects with the fields `name`, `value`, `unit`, `peer` and `ratio`, and a table. The value
is the median of its rounds. The ratio is the median of the ratios to the peer's value of the same round, and more than
1 if the peer is worse; without a peer, peer and ratio are null.
"""

import json
import math
import statistics
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

LINE_WIDTH = 120
FIELDS = ("name", "value", "unit", "peer", "ratio")


def make_parser(module: str, description: str | None, rounds: int | None, quick: str) -> ArgumentParser:
    """Return a parser with the options that all benchmarks have.

    Args:
        module: The benchmark, for the usage line.
        description: Its docstring.
        rounds: The default number of rounds; None if it has no rounds.
        quick: What `--quick` measures.
    """
    parser = ArgumentParser(f"python -m {module}", description=description, formatter_class=RawDescriptionHelpFormatter)
    if rounds is not None:
        parser.add_argument("--rounds", type=int, help=f"number of rounds ({rounds}; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.set_defaults(default_rounds=rounds)
    return parser


def rounds_of(args: Any) -> int:
    """Return the number of rounds of the options of `make_parser`."""
    rounds: int = args.rounds or (1 if args.quick else args.default_rounds)
    return rounds


def ratios(values: Iterable[float], peers: Iterable[float], *, more_is_better: bool) -> list[float]:
    """Return the factors by which values are better than the peer's of the same round, without undefined ones."""
    pairs = [(value, peer) if more_is_better else (peer, value) for value, peer in zip(values, peers, strict=True)]
    return [above / below for above, below in pairs if above and below and math.isfinite(above / below)]


def print_line(
    name: str,
    values: Iterable[float],
    unit: str,
    peer: str | None = None,
    peers: Sequence[float] = (),
    *,
    more_is_better: bool = False,
) -> None:
    """Print the line of a measurement, unless no round has a finite value.

    Args:
        name: Name of the measurement.
        values: One value of each round.
        unit: Their unit.
        peer: Name of the measurement that it is compared with.
        peers: The values of the peer, one of each round.
        more_is_better: Whether a large value is better than a small one.
    """
    values = list(values)
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return
    relative = ratios(values, peers, more_is_better=more_is_better) if peer else []
    fields = (name, _rounded(finite), unit, peer if relative else None, _rounded(relative) if relative else None)
    print(json.dumps(dict(zip(FIELDS, fields, strict=True))), flush=True)


def report(
    title: str, rounds: Sequence[Mapping[str, float]], unit: str, peer: str, *, more_is_better: bool = False
) -> None:
    """Print the lines of a comparison of candidates, and its table.

    Args:
        title: Title of the table, and first part of each line's name.
        rounds: The values of all candidates, by name, in each round.
        unit: Their unit.
        peer: The candidate that all others are compared with.
        more_is_better: Whether a large value is better than a small one.
    """
    peers = [one[peer] for one in rounds]
    table = Table("candidate", unit, f"times as good as {peer}", title=title)
    for name in rounds[0]:
        values = [one[name] for one in rounds]
        own_peer = f"{title}: {peer}" if name != peer else None
        print_line(f"{title}: {name}", values, unit, own_peer, peers, more_is_better=more_is_better)
        better = ratios(values, peers, more_is_better=more_is_better)
        table.add_row(name, spread(values), spread(better, 3) if own_peer else "")
    Console(width=LINE_WIDTH).print(table)


def spread(values: Iterable[float], digits: int | None = None) -> str:
    """Format the median, and the smallest and the largest value, such as `1.02 (0.98 to 1.05)`.

    Args:
        values: One value of each round; NaN for what was not reached.
        digits: Number of decimal places; None for as many as the largest value needs.
    """
    found = [value for value in values if not math.isnan(value)]
    if not found:
        return "not reached"
    if digits is None:
        digits = next(places for least, places in ((1000, 0), (100, 1), (1, 2), (0, 4)) if max(found) >= least)
    middle, least, most = (f"{value:,.{digits}f}" for value in (statistics.median(found), min(found), max(found)))
    return middle if len(found) == 1 else f"{middle} ({least} to {most})"


def _rounded(values: Sequence[float]) -> float:
    """Return the median with four significant digits."""
    return float(f"{statistics.median(values):.4g}")


def wait_for_end(process: int) -> None:
    """Wait for the end of a process, by its id."""
    with suppress(psutil.NoSuchProcess):
        psutil.Process(process).wait()
