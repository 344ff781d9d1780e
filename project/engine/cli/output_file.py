"""The file that an option such as `--output` names."""

import os
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from pathlib import Path


def output_file(suffixes: Sequence[str]) -> Callable[[str], Path]:
    """Return the type of an option of argparse: a path with one of these suffixes, that this process may write."""

    def parse(text: str) -> Path:
        path = Path(text)
        if path.suffix not in suffixes:
            raise ArgumentTypeError(f"got {text}; it must end in {', '.join(suffixes)}")
        if not path.parent.is_dir():
            raise ArgumentTypeError(f"got {text}, but the folder {path.parent} does not exist; create it")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise ArgumentTypeError(f"cannot write {text}; change its permissions, or name another file")
        return path

    return parse
