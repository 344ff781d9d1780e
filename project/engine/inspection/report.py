"""The report on data: their contents, and the samples that occur more than once."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from torch import Tensor

from project.engine.data import DescribedDataModule
from project.engine.inspection.samples import Copies, Place

_MOST_ROWS = 20


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
    """Print how many samples occur more than once, and a line for each of them."""
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
    for group in groups:
        console.print(escape(" = ".join(_name(names[place.split], place) for place in group)), soft_wrap=True)
    for split in splits[1:]:
        if leaked := copies.shared(split, splits[0]):
            console.print(
                f"{leaked:,} of {copies.counts[split]:,} samples of {split} are also in {splits[0]}: the model has "
                f"seen them in training, so its scores on {split} are too high",
                soft_wrap=True,
            )
    if not groups:
        console.print("no sample occurs twice")


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
