"""The treatment of files that cannot be decoded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

_SHOWN = 3


def refuse_bad_images(
    folder: Path,
    bad: Sequence[str],
    count: int,
    listed: Path,
    on_bad_image: Literal["fail", "skip"],
    max_bad_percent: float,
) -> None:
    """Write the list of bad files, and raise an error unless they may be skipped and are few.

    Args:
        folder: Folder of the split.
        bad: One line per bad file: its path and the reason.
        count: Total number of files in the split.
        listed: File to write the lines to.
        on_bad_image: Whether to skip bad files or to fail.
        max_bad_percent: Largest share of files that may be skipped, in percent.

    Raises:
        ValueError: Bad files may not be skipped, or are too many.
    """
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("\n".join(bad) + "\n", encoding="utf-8", errors="surrogateescape")
    found = f"{len(bad)} of {count:,} files in {folder} cannot be decoded (listed in {listed})"
    shown = "; ".join(bad[:_SHOWN])
    if on_bad_image == "fail":
        raise ValueError(
            f"data.on_bad_image: {found}; repair them, or use skip with --data.max_bad_percent "
            f"{-(-100 * len(bad) // count)}: {shown}"
        )
    if 100 * len(bad) > max_bad_percent * count or len(bad) == count:
        raise ValueError(
            f"data.max_bad_percent: got {max_bad_percent}, but {found}; repair them, or allow more: {shown}"
        )
