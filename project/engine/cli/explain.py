"""The errors of jsonargparse, in one line each."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from itertools import dropwhile
from pkgutil import resolve_name
from typing import NamedTuple, get_args

from project.engine.cli.nearest import children, question, suggestion
from project.engine.cli.parser import FitParser
from project.engine.schedule import REFUSED


def check_importable(text: str) -> None:
    """Raise ValueError if a class that jsonargparse's error names is in a module that cannot be imported.

    jsonargparse reports only that the class does not fit.

    Args:
        text: Its error.
    """
    named = re.findall(r"(?:class_path[= ]'|class_path': '|[GgVv]\w+ value: |val=')([A-Za-z_]\w*(?:\.\w+)+)", text)
    for path in dict.fromkeys(named):
        module = path.rpartition(".")[0]
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if module == error.name or module.startswith(f"{error.name}."):
                continue  # The table below names it.
            raise ValueError(f"importing {module} fails: {error}") from error
        except (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError,
                RuntimeError, SyntaxError, TypeError, ValueError) as error:  # fmt: skip
            reason = " ".join(str(error).split())
            raise ValueError(f"importing {module} fails with {type(error).__name__}: {reason}") from error


def explain(text: str, known: Iterable[str], parser: FitParser, typed: Sequence[str]) -> str:
    """Return in one line what jsonargparse reports in ten.

    Args:
        text: Its error.
        known: All options without dashes, for the nearest match.
        parser: The parser that reported the error.
        typed: The given options, such as `--model.optimizer=SGD`.
    """
    text = innermost(text)
    # Errors of nested settings are nested, such as those of the model's net; alternatives have the same key.
    parts = re.findall(r'Parser key "([^"]+)"|--([\w.]+\.help): ', text)
    key = ".".join(dict.fromkeys(map("".join, parts)))
    for pattern, answer in ANSWERS:
        if match := re.search(pattern, text, re.DOTALL):
            return answer(_Problem(match, key, text, known, parser, typed))
    return " ".join(re.sub(r'Parser key "([^"]+)":', r"--\1:", text).split())


def innermost(text: str) -> str:
    """Return the part of an error that is about a setting, without what jsonargparse tried besides."""
    text = re.sub(r"- Expected a path but \S+ either not accessible or invalid\s+- ", "", text)
    return _WRAPPER.sub(r"\1", text)


# The class of the data or of the model was valid, and one of its settings was not.
_WRAPPER = re.compile(
    r"Does not validate against any of the Union subtypes\s+Subtypes: \[<class '[\w.]*Lightning(?:Data)?Module'>.*?"
    r"Errors:\s+- (Problem with given class_path '[\w.]+':\s+.*)\s+- Expected a <class 'NoneType'>\s+Given value ty.*",
    re.DOTALL,
)


class _Problem(NamedTuple):
    match: re.Match[str]
    key: str
    text: str
    known: Iterable[str]
    parser: FitParser
    typed: Sequence[str]

    def nearest_class(self, name: str) -> str:
        """Return ` (did you mean NAME?)` with the nearest class that fits the setting, or an empty text."""
        kinds = _classes(self.parser.types().get(self.key.removesuffix(".help")))
        return question(name, [kind.__name__ for kind in kinds])


def _classes(kind: object) -> Iterator[type]:
    """Return the classes that a type consists of, with their subclasses; not those of Python, such as int."""
    if isinstance(kind, type) and kind.__module__ != "builtins":
        yield kind
        subclasses: list[type] = kind.__subclasses__()
        for subclass in subclasses:
            yield from _classes(subclass)
    for part in get_args(kind):  # The arguments of a Callable are a list, which has no classes here.
        yield from _classes(part)


def _unknown(problem: _Problem) -> str:
    match, key, text = problem.match, problem.key, problem.text
    option = match[1].removeprefix("--").partition("=")[0]
    if match[0].lower().startswith("unrecognized") and not match[1].startswith("--"):
        return f"unknown argument {match[1]!r}; options are --NAME VALUE, see --help"
    if option == "class_path":
        return f"--{key}: got options beside class_path; list them under init_args"
    if group := re.search(r"Group '([^']+)'", text):
        option = f"{group[1]}.{option}"
    option = option if not key or option.startswith(key) else f"{key}.{option}"
    later = dropwhile(lambda other: not other.startswith(f"--{option}="), problem.typed)
    parent = option.rpartition(".")[0]
    # The classes of groups are chosen first.
    if "." in parent and (choices := [other for other in later if other.startswith(f"--{parent}=")]):
        return f"unknown option --{option}; give {choices[-1].replace('=', ' ', 1)} before its options"
    return f"unknown option --{option}; {_suggestion(option, text, problem)}"


def _refused_or_ambiguous(problem: _Problem) -> str:
    match, key = problem.match, problem.key
    if reason := REFUSED.get(match[1]):
        return f"--{key}: {match[1]} cannot be used, as {reason}"
    return f"--{key}: got {match[1]!r}, the name of several classes; give the path of one: {match[2]}"


def _required(problem: _Problem) -> str:
    match, key = problem.match, problem.key
    options = " and ".join(f"--{key}.{name}" for name in match["names"].split(", "))
    return f"--{key}: got {match['owner'].rpartition('.')[2]!r}, which needs a value for {options}"


def _not_found(problem: _Problem) -> str:
    path, reason, module, name, given = problem.match.groups()
    nearest = question(name, dir(import_module(module))) if module else ""
    got = path or given or dict(one.partition("=")[::2] for one in problem.typed).get(f"--{problem.key}")
    return f"--{problem.key}: got {got!r}{nearest}, but {reason.replace('No module', 'there is no module')}"


def _none_of_several(problem: _Problem) -> str:
    key, text = problem.key, problem.text
    # A class in a list is named alone; otherwise, the whole value is.
    given = re.findall(r"- Expected a dot import path string: (.*)", text)
    given += re.findall(r"Given value: (.*?)(?:\. Got value: .*)?$", text, re.MULTILINE)
    got = given[0] if given else ""
    nested = re.fullmatch(r"NestedArg\(key='([^']*)', val='([^']*)'\)", got)
    expected = re.sub(r"<class '(?:\w+\.)*(\w+)'>|typing\.", r"\1", re.findall(r"Subtypes: \[(.*)\]", text)[-1])
    for typed, yaml in ((r"Literal\[(.*?)\]", r"\1"), (r"\bbool\b", "true, false"), (r"\bNoneType\b", "null")):
        expected = re.sub(typed, yaml, expected)
    # An option of torch may also be a tensor, which cannot be typed. The precisions have 16 and "16".
    kinds = list({kind.strip("'"): kind for kind in expected.split(", ") if kind != "Tensor"}.values())
    got = nested[2] if nested else got
    if any(base.__module__.startswith("pytorch_lightning.") for base in _bases(got)):
        return f"--{key}: {got} derives from a class of pytorch_lightning; import that from lightning.pytorch"
    nearest = problem.nearest_class(got)
    only = "; a tensor cannot be an option, see 'Add a loss' in CONTRIBUTING.md" if kinds == ["null"] else ""
    return f"--{key}: got {got!r}{nearest}; expected {'one of ' if len(kinds) > 1 else ''}{', '.join(kinds)}{only}"


def _bases(path: str) -> tuple[type, ...]:
    """Return a class that is imported, and its bases; nothing for another path."""
    module, _, name = path.rpartition(".")
    bases: tuple[type, ...] = getattr(getattr(sys.modules.get(module), name, None), "__mro__", ())
    return bases


# Patterns of jsonargparse's texts, of which the first match counts. `tests/engine/cli/test_explain.py` has the texts.
ANSWERS: tuple[tuple[str, Callable[[_Problem], str]], ...] = (
    (r"(\w+) cannot be used, as ([^\n]+)", lambda p: f"--{p.key}: {p.match[0]}"),
    (r"[Uu]nrecognized arguments: (\S+)", _unknown),
    (r"Option '([^']+)' is not accepted", _unknown),
    (r"does not accept option '([^']+)'", _unknown),
    (r"Multiple subclasses with name (\w+)\. .*?: ([^\n]+)\.", _refused_or_ambiguous),
    (r"arguments are required: (?P<names>.+?)\. Got value: .*?class_path='(?P<owner>[\w.]+)'", _required),
    (r"class_path '(?P<owner>[\w.]+)':\s+the following arguments are required: (?P<names>[\w, ]+)", _required),
    (
        r"Expected '([^']+)' to be a (?:subclass of|function that returns) <class '[\w.]*?(\w+)'>",
        lambda p: f"--{p.key}: got {p.match[1]!r}; expected {p.match[2]}: its class, or a function that returns one",
    ),
    (
        r"(?:class_path '([^']+)':\s+)?(No module named '[^']+'|module '([\w.]+)' has no attribute '(\w+)')"
        r"(?:\. Got value: (?:Namespace\(class_path=')?([^\s']+))?",
        _not_found,
    ),
    (
        r"Expected a typing\.Literal\[(.*?)\]\. Got value: (\S+?)\.?(?:\s|$)",
        lambda p: f"--{p.key}: got {p.match[2]!r}; expected one of {p.match[1]}",
    ),
    (
        r"Expected a <class '[\w.]*?(?:Sequence|list)'>\. Got value: ([^\n]*?)\.?(?:\n| Got value: |$)",
        lambda p: f"--{p.key}: got {p.match[1]!r}; expected a list, such as [{p.match[1].strip('[]')}]",
    ),
    (
        r"(?<!- )Expected an? <class '[\w.]*?(\w+)'>\. Got value: ([^\n]*?)\.?(?:\n| Got value: |$)",
        lambda p: f"--{p.key}: got {p.match[2]!r}; expected {p.match[1]}",
    ),
    (r"Subtypes: \[", _none_of_several),
    (
        r"dot import path(?: string)?: ?(\S*)",
        lambda p: (
            f"--{p.key}: got {p.match[1]!r}{p.nearest_class(p.match[1])}, which is neither a class known here nor the "
            f"path of one, such as {'torch.optim.SGD' if p.key.endswith('optimizer') else 'package.module.Class'}"
        ),
    ),
)


def _suggestion(option: str, text: str, problem: _Problem) -> str:
    """Name the nearest option; if none is near, the options of the same object."""
    names = list(problem.known)
    parent = option.rpartition(".")[0]
    owner = re.findall(r"class_path[= ]'(?!lightning\.Callback')([\w.]+)'", text)  # An alternative has the base class.
    if owner and parent in names:  # Otherwise, the option is in a group of options of the class.
        siblings = _options_of_class(parent, owner[-1], problem.parser, given=_given(text))
        names = [other for other in names if other.rpartition(".")[0] != parent]
    else:
        siblings = children(parent, names)
    return suggestion(option, siblings, names)


def _given(text: str) -> int:
    """Return how many arguments the project gives to a class that it calls, by the type of the setting."""
    called = re.findall(r"\bCallable\[\[(.*?)\]", text)
    return called[-1].count(",") + 1 if called and called[-1] else 0


def _options_of_class(setting: str, path: str, parser: FitParser, *, given: int) -> list[str]:
    """Return the options of a setting's class in their order, without the first ones, which the project gives."""
    names = [name for name in parser.types_of(setting, resolve_name(path)) if name.startswith(f"{setting}.")]
    return list(dict.fromkeys(name.removeprefix(f"{setting}.").partition(".")[0] for name in names))[given:]
