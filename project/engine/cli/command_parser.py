"""The argument parser of the commands besides `fit`, whose errors are one line, and the files of `--output`."""

import os
import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryFile
from typing import NoReturn

from typing_extensions import override

from project.engine.cli.errors import exit_on_bad_input
from project.engine.compat import option_texts


class CommandParser(ArgumentParser):
    """A parser that prints an error as the other checks of a command do, without the usage."""

    @override
    def error(self, message: str) -> NoReturn:
        """Print what was got and what is allowed, and exit with code 2."""
        with exit_on_bad_input():
            raise ValueError(self._brief(message))

    def _brief(self, message: str) -> str:
        if match := re.match("unrecognized arguments: (-[^ =]*)", message):
            options = list(option_texts(self))
            # With their dashes, short names look alike.
            nearest = get_close_matches(match[1].lstrip("-"), options, n=1)
            hint = f"did you mean --{nearest[0]}?" if nearest else f"options are --{', --'.join(options)}"
            return f"unknown option {match[1]}; {hint}"
        if message.startswith(("unrecognized arguments", "the following arguments are required")):
            return f"{message}; {self.format_usage().strip()}"
        return message.removeprefix("argument ")


def output_file(suffixes: Sequence[str]) -> Callable[[str], Path]:
    """Return the type of an option of argparse: a path with one of these suffixes, that this process may write."""

    def parse(text: str) -> Path:
        path = Path(text)
        if path.suffix not in suffixes:
            raise ArgumentTypeError(f"got {text}; it must end in {', '.join(suffixes)}")
        if reason := unwritable(path):
            raise ArgumentTypeError(reason)
        return path

    return parse


@contextmanager
def writing(path: object) -> Iterator[None]:
    """Name the file in an error of the block that writes it, for example on a full disk.

    Raises:
        OSError: The file cannot be written.
    """
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise OSError(f"cannot write {path} ({reason})") from error


def unwritable(path: Path) -> str | None:
    """Return why this process may not write a file or a folder; None if it may."""
    if not path.parent.is_dir():
        return f"got {path}, but the folder {path.parent} does not exist; create it"
    try:
        exists = path.is_file() or path.is_dir()  # A pipe without a reader would block.
        with path.open("ab") if exists else TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        return f"cannot write {path} ({error.strerror}); change its permissions, or name another one"
    return None
