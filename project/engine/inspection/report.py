"""The report on data: their contents in the terminal, and the samples that occur more than once as a file."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from torch import Tensor

from project.engine.data import DescribedDataModule
from project.engine.inference.tables import write_table
from project.engine.inspection.samples import Copies, Place

_MOST_ROWS, _MOST_GROUPS, _MOST_PLACES = 20, 5, 4


def print_contents(data: DescribedDataModule) -> None:
    """Print what the data say of themselves, the counts in each split, and the sizes of files."""
    console = Console(highlight=False)
    for line in data.found() or [f"{data.name} does not declare what its splits contain"]:
        console.print(escape(line), soft_wrap=True)
    counted = {name: counts for name, counts in data.profile().items() if isinstance(counts, dict)}
    if counted:
        table = Table("", *(Column(split, justify="right") for split in data.sizes()))
        for name, counts in list(counted.items())[:_MOST_ROWS]:
            table.add_row(escape(name), *(f"{counts.get(split, 0):,}" for split in data.sizes()))
        console.print(table)
    if len(counted) > _MOST_ROWS:
        console.print(f"and {len(counted) - _MOST_ROWS:,} more rows")
    for split in data.sizes():
        if (sizes := data.original_sizes(split)) is not None and len(sizes):
            console.print(f"files of {split}, height x width: {_extent(sizes)}", soft_wrap=True)


def print_copies(data: DescribedDataModule, copies: Copies) -> None:
    """Print how many samples occur more than once, and a few of them."""
    console = Console(highlight=False)
    if not copies.counts:
        console.print(f"samples were not compared: {escape(data.name)} does not yield them", soft_wrap=True)
        return
    splits = list(copies.counts)
    heads = ("samples", "repeated", *(f"also in {split}" for split in splits[:-1]), "other targets")
    table = Table("", *(Column(head, justify="right") for head in heads))
    for place, (split, count) in enumerate(copies.counts.items()):
        shared = [
            _share(copies.shared(split, other), count) if other in splits[:place] else "" for other in splits[:-1]
        ]
        contradicting = _share(copies.contradicting(split), count)
        table.add_row(split, f"{count:,}", _share(copies.within(split), count), *shared, contradicting)
    console.print(table)
    # Groups of several splits first.
    groups = sorted(copies.groups, key=lambda group: len({place.split for place in group}) == 1)
    names = {split: data.sample_names(split) for split in splits} if groups else {}
    for group in groups[:_MOST_GROUPS]:
        shown = [_name(names[place.split], place) for place in group[:_MOST_PLACES]]
        more = [f"{len(group) - _MOST_PLACES:,} more"] if len(group) > _MOST_PLACES else []
        console.print(escape(" = ".join([*shown, *more])), soft_wrap=True)
    if len(groups) > _MOST_GROUPS:
        console.print(f"and {len(groups) - _MOST_GROUPS:,} more; --output copies.csv lists all of them")
    for split in splits[1:]:
        if leaked := copies.shared(split, splits[0]):
            console.print(
                f"{leaked:,} of {copies.counts[split]:,} samples of {split} are also in {splits[0]}: the model has "
                f"seen them in training, so its scores on {split} are too high",
                soft_wrap=True,
            )
    if not groups:
        console.print("no sample occurs twice")


def write_copies(data: DescribedDataModule, copies: Copies, to: Path) -> None:
    """Write a row for each sample that occurs more than once: group, split, index, and path if it is known."""
    rows = [(number, place) for number, group in enumerate(copies.groups) for place in group]
    names = {split: data.sample_names(split) for split in copies.counts}
    columns = {
        "group": [number for number, _ in rows],
        "split": [place.split for _, place in rows],
        "index": [place.position for _, place in rows],
        "same_targets": [len({one.target for one in copies.groups[number]}) == 1 for number, _ in rows],
    }
    if any(names.values()):
        columns["path"] = [str(names[place.split][place.position]) for _, place in rows]
    write_table(columns, to)


def _share(count: int, of: int) -> str:
    return f"{count:,} ({count / of:.1%})" if count else "0"


def _name(names: Sequence[str], place: Place) -> str:
    # A file's name may contain a line break.
    return repr(str(names[place.position]))[1:-1] if names else f"{place.split} {place.position:,}"


def _extent(sizes: Tensor) -> str:
    """Return the smallest, the middle and the largest of sizes (N, 2), by their area."""
    by_area = sizes[sizes.long().prod(1).argsort(stable=True)]
    ends = by_area[[0, len(by_area) // 2, -1]].tolist()
    smallest, middle, largest = (f"{height:,}x{width:,}" for height, width in ends)
    return largest if smallest == largest else f"{smallest} to {largest}, median {middle}"
