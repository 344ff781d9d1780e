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

from project.engine.loading import LoadingError
from project.engine.schedule import NOT_OPTIONS, REFUSED

BAD_INPUT = 2
_LONGEST = 400
# Likeness of two names, in [0, 1]: `dropot` and `dropout` have 0.92, `pretrained` and `padding` 0.47.
_NEAR = 0.75
_NEAR_ELSEWHERE = 0.85
# What the project gives to nets, optimizers and schedules, and what nobody sets.
_GIVEN = ("num_classes", "in_channels", "image_size", "params", "optimizer", "total_steps", *NOT_OPTIONS)
_UNKNOWN = (
    r"[Uu]nrecognized arguments: (\S+)",
    r"Option '([^']+)' is not accepted",
    r"Key '([^']+)' is not expected",
    r"No action for key '([^']+)'",
    r"does not accept option '([^']+)'",
)


@contextmanager
def exit_on_bad_input() -> Iterator[None]:
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
            return f"unknown option --{option}; {_suggestion(option, text, known)}"
    if several := re.search(r"Multiple subclasses with name (\w+)\. .*: (.+)\.", text):
        if reason := REFUSED.get(several[1]):
            return f"--{key}: {several[1]} cannot be used, as {reason}"
        return f"--{key}: got {several[1]!r}, the name of several classes; give the path of one: {several[2]}"
    if required := re.search(r"the following arguments are required: (.+?)\. Got value: .*class_path='([\w.]+)'", text):
        options = " and ".join(f"--{key}.{name}" for name in required[1].split(", "))
        return f"--{key}: got {required[2].rpartition('.')[2]!r}, which needs a value for {options}"
    if required := re.search(r"class_path '[\w.]*?(\w+)':\s+the following arguments are required: (\w+)", text):
        return f"--{key}: got {required[1]!r}, which needs a value for --{key}.{required[2]}"
    if unspoken := re.search(r"cannot represent an object', <\w+\.\w+: '(\w+)'>", text):
        return (
            f"--trainer.callbacks: a default cannot be written to YAML; give it as text, as in ARGUMENT={unspoken[1]}"
        )
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


def _suggestion(option: str, text: str, known: Iterable[str]) -> str:
    """The nearest option, or those that there are: a far match is not a match."""
    names = list(known)
    parent, dot, name = option.rpartition(".")
    owner = re.search(r"class_path[= ]'([\w.]+)'", text)
    if owner and parent in names:  # Otherwise, the option is in a group of the class's options.
        siblings = _options_of_class(owner[1], called="callable class" in text)
        names = [other for other in names if other.rpartition(".")[0] != parent]
    else:
        siblings = sorted({other.removeprefix(parent + dot).partition(".")[0] for other in names
                           if other.startswith(parent + dot)})  # fmt: skip
    if nearest := get_close_matches(name, siblings, n=1, cutoff=_NEAR):
        return f"did you mean --{parent}{dot}{nearest[0]}?"
    last = {other.rpartition(".")[2]: other for other in reversed(names)}
    if nearest := get_close_matches(name, last, n=1, cutoff=_NEAR_ELSEWHERE):
        return f"did you mean --{last[nearest[0]]}?"
    if siblings and parent:
        return f"options of {parent} are {', '.join(siblings)}"
    return "see python -m project.fit --help"


def _options_of_class(path: str, *, called: bool) -> list[str]:
    """Names of the arguments of a class; of one that the project calls, without those that it gives."""
    names: list[str] = []
    for owner in resolve_name(path).__mro__:
        parameters = list(signature(owner.__init__).parameters.values())[1:]
        names += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    return [name for name in names if not called or name not in _GIVEN]
