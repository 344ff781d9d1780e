"""The argument parser of the commands besides `fit`, whose errors are one line."""

import re
from argparse import ArgumentParser
from difflib import get_close_matches
from typing import NoReturn

from typing_extensions import override

from project.engine.cli.errors import exit_on_bad_input


class CommandParser(ArgumentParser):
    """A parser that prints an error as the other checks of a command do, without the usage."""

    @override
    def error(self, message: str) -> NoReturn:
        """Print what was got and what is allowed, and exit with code 2."""
        with exit_on_bad_input():
            raise ValueError(self._brief(message))

    def _brief(self, message: str) -> str:
        if match := re.fullmatch("unrecognized arguments: (-[^ =]*).*", message, re.DOTALL):
            options = re.findall(r"^ +(?:-\w, )?(--\w+)", self.format_help(), re.MULTILINE)
            # With their dashes, short names look alike.
            nearest = get_close_matches(match[1].lstrip("-"), [option.lstrip("-") for option in options], n=1)
            hint = f"did you mean --{nearest[0]}?" if nearest else f"options are {', '.join(options)}"
            return f"unknown option {match[1]}; {hint}"
        if match := re.fullmatch("the following arguments are required: (.*)", message):
            return f"got no {match[1]}; {self.format_usage().strip()}"
        if match := re.fullmatch("unrecognized arguments: (.*)", message, re.DOTALL):
            return f"unexpected {match[1]}; {self.format_usage().strip()}"
        message = re.sub(r"argument (\S+): expected .*one argument", r"\1: got no value; give \1 VALUE", message)
        message = re.sub(r"invalid choice: (.+) \(choose from (.+)\)", r"got \1; expected one of \2", message)
        message = re.sub(r"invalid (\w+) value: (.+)", r"got \2; expected \1", message)
        return message.removeprefix("argument ")
