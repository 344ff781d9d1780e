"""The folder that a dataset is in, as every dataset takes it from `root`."""

from pathlib import Path


def data_root(root: str) -> Path:
    """The folder that `root` names; `~` stands for the home folder.

    Raises:
        ValueError: There is no such home folder.
    """
    try:
        return Path(root).expanduser()
    except RuntimeError as error:
        raise ValueError(f"data.root: got {root!r}, but {error}; write the folder in full") from error
