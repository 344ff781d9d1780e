"""The argument parser of the commands besides `fit`, whose errors are one line."""

import re
from argparse import ArgumentParser
from difflib import get_close_matches
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
