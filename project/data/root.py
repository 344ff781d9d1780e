"""The folder of a dataset, from its argument `root`."""

from pathlib import Path


def data_root(root: str) -> Path:
    """Return the folder that `root` names; `~` stands for the home folder.

    Raises:
        ValueError: The home folder does not exist.
    """
    try:
        return Path(root).expanduser()
    except RuntimeError as error:
        raise ValueError(f"data.root: got {root!r}, but {error}; write the folder in full") from error
