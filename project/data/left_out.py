"""The files and folders of a dataset that are not used, with the reasons."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class LeftOut:
    """Files and folders that are not used.

    Args:
        files: Number of files by reason.
        folders: Number of folders by name; links are counted by path.
        notes: Other remarks.
    """

    files: Counter[str] = field(default_factory=Counter)
    folders: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.files or self.folders or self.notes)

    def __str__(self) -> str:
        """List reasons and names, the most frequent first."""
        files = [f"{reason} {count:,}" for reason, count in self.files.most_common()]
        folders = [f"{name} ({count:,})" if count > 1 else name for name, count in self.folders.most_common()]
        count = self.files.total()
        parts = [f"{count:,} file{'s' if count > 1 else ''}: {', '.join(_few(files))}"] if files else []
        parts += [f"folders {', '.join(_few(folders))}"] if folders else []
        return "; ".join(parts + self.notes)


def _few(texts: Sequence[str], most: int = 8) -> list[str]:
    return [*texts[:most], f"{len(texts) - most} more"] if len(texts) > most else list(texts)
