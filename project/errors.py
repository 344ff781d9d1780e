"""Bad input is answered in one breath: exit code 2, three lines at most, no traceback."""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from inspect import signature
from pkgutil import resolve_name
from textwrap import shorten

from lightning.fabric.utilities.exceptions import MisconfigurationException
from mlflow.exceptions import MlflowException

from project.loading import LoadingError
from project.schedule import NOT_OPTIONS, REFUSED

BAD_INPUT = 2
_LONGEST = 400
_UNKNOWN = (
    r"[Uu]nrecognized arguments: (\S+)",
    r"Option '([^']+)' is not accepted",
    r"Key '([^']+)' is not expected",
    r"No action for key '([^']+)'",
    r"does not accept option '([^']+)'",
)


@contextmanager
def answered() -> Iterator[None]:
    """Turn an error about the input into a message and exit code 2."""
    try:
        yield
    except (ValueError, OSError, MisconfigurationException, MlflowException, LoadingError) as error:
        print(f"error: {shorten(str(error), _LONGEST, placeholder=' …')}", file=sys.stderr)
        sys.exit(BAD_INPUT)


def explain(text: str, known: Iterable[str]) -> str:
    """Say in one line what jsonargparse says in ten.

    Args:
        text: Its error.
        known: Every option there is, without dashes, for the nearest match.
    """
    text = re.sub(r"- Expected a path but \S+ either not accessible or invalid\s+- ", "", text)
    key = match[1] if (match := re.search(r'Parser key "([^"]+)"', text)) else ""
    for pattern in _UNKNOWN:
        if match := re.search(pattern, text):
            if not match[1].startswith("--") and "nrecognized" in pattern:
                return f"unknown argument {match[1]!r}; options are --NAME VALUE, see --help"
            option = match[1].removeprefix("--").partition("=")[0]
            if group := re.search(r"Group '([^']+)'", text):
                option = f"{group[1]}.{option}"
            option = option if not key or option.startswith(key) else f"{key}.{option}"
            if own := _options_of_chosen_class(text, key):
                class_name, known = own
                otherwise = f"{class_name} has {', '.join(f'--{name}' for name in known)}"
            else:
                otherwise = "see --help; settings are in python -m project.fit --help"
            nearest = get_close_matches(option, [name for name in known if "." in name], n=1)
            return f"unknown option --{option}; " + (f"did you mean --{nearest[0]}?" if nearest else otherwise)
    if several := re.search(r"Multiple subclasses with name (\w+)\. .*: (.+)\.", text):
        if reason := REFUSED.get(several[1]):
            return f"--{key}: {several[1]} cannot be used, as {reason}"
        return f"--{key}: got {several[1]!r}, the name of several classes; give the path of one: {several[2]}"
    if required := re.search(r"the following arguments are required: (.+?)\. Got value: .*class_path='([\w.]+)'", text):
        options = " and ".join(f"--{key}.{name}" for name in required[1].split(", "))
        return f"--{key}: got {required[2].rpartition('.')[2]!r}, which needs a value for {options}"
    if kind := re.search(
        r"Expected '([^']+)' to be a (?:subclass of|function that returns) <class '[\w.]*?(\w+)'>", text
    ):
        return f"--{key}: got {kind[1]!r}; expected a class or a function that makes a {kind[2]}"
    if inner := re.search(r"Parser key \"([^\"]+)\":\s+Expected an? <class '[\w.]*?(\w+)'>\. Got value: (\S+)", text):
        name = inner[1] if inner[1].startswith(key) else f"{key}.{inner[1]}"
        return f"--{name}: got {inner[3].rstrip('.')!r}; expected {inner[2]}"
    if missing := re.search(r"class_path '([^']+)':\s+(No module named '[^']+'|module '[^']+' has no .*)", text):
        return f"--{key}: got {missing[1]!r}, but there is {missing[2][0].lower()}{missing[2][1:]}"
    if denied := re.search(r"Importing '[^']+' is not allowed", text):
        return f"--{key}: {denied[0]} in a setting, as it can run commands"
    if choices := re.search(r"Expected a typing\.Literal\[(.*?)\]\. Got value: (\S+)", text):
        option = ".".join(re.findall(r'Parser key "([^"]+)"', text))
        return f"--{option}: got {choices[2]!r}; expected one of {choices[1]}"
    if subtypes := re.findall(r"Subtypes: \[(.*)\]", text):
        # What is wrong stands innermost: of the dataset --data.NAME, say.
        keys = re.findall(r'Parser key "([^"]+)"', text)
        given = re.findall(r"Given value: (.*?)(?:\. Got value: .*)?$", text, re.MULTILINE)
        got = given[0] if given else ""
        nested = re.fullmatch(r"NestedArg\(key='([^']*)', val='([^']*)'\)", got)
        expected = re.sub(r"<class '(?:\w+\.)*(\w+)'>|typing\.", r"\1", subtypes[-1])
        return f"--{'.'.join(keys)}: got {nested[2] if nested else got!r}; expected one of {expected}"
    if "dot import path" in text:
        got = text.rpartition(" ")[2]
        return f"--{key}: got {got!r}, which is neither a class known here nor the path of one, such as torch.optim.SGD"
    return " ".join(re.sub(r'Parser key "([^"]+)":', r"--\1:", text).split())


def _options_of_chosen_class(text: str, key: str) -> tuple[str, list[str]] | None:
    """The name and the options of the class that an error is about, if it is about one."""
    paths = re.findall(r"class_path='([\w.]+)'", text)
    if not paths:
        return None
    chosen = resolve_name(paths[-1])
    return chosen.__name__, [f"{key}.{name}" for name in signature(chosen).parameters if name not in NOT_OPTIONS]
