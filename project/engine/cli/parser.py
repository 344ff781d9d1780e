"""The parser of the command line: options come from signatures, without arguments set by data or training."""

import re
from argparse import SUPPRESS, HelpFormatter
from collections.abc import Mapping, Sequence
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from project.engine.cli import config_groups, yaml_file
from project.engine.cli.help import page
from project.engine.compat import option_texts, option_types, plain_dataclasses
from project.engine.schedule import LENGTHS, NOT_OPTIONS, REFUSED


class FitParser(LightningArgumentParser):
    """A parser without the arguments of a model that come from the data.

    The length of a schedule is optional; its default is the length of the training.

    Raises:
        ValueError: A schedule cannot work here.
    """

    described: Mapping[str, type] = {}
    """Classes whose options are part of the help, by the name of their setting."""
    settings: Mapping[str, Any] = {}
    """The settings without the changes of the command line; if there are any, the help is a page."""
    file = ""
    """The YAML file that is parsed, also after an error in it; empty while options are parsed."""
    help_of: ClassVar[str] = ""
    """The setting of `--SETTING.help`; empty without such an option."""
    _all_options = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"prog": config_groups.PROGRAM} | options)
        self._parsed: dict[tuple[str, ...], Namespace] = {}

    @override
    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """Return the page of `--help`, or all options for `--help all`, also those of `described`."""
        if self.settings and not self._all_options:
            return page(self.texts(), self.settings)
        described_help = _of_described(*self.described.items()).format_help() if self.described else ""
        # The lists of all classes that fit a setting are long.
        return re.sub(r",\s+known\s+subclasses:\s[^)]*", "", f"{super().format_help(formatter)}\n{described_help}")

    def texts(self) -> dict[str, str]:
        """Return the help of each option by its dotted name, also of those of `described`."""
        return option_texts(self) | option_texts(_of_described(*self.described.items()))

    def types(self) -> dict[str, object]:
        """Return the type of each option by its dotted name, also of those of `described`."""
        return option_types(self) | option_types(_of_described(*self.described.items()))

    def types_of(self, name: str, kind: type) -> dict[str, object]:
        """Return the type of each option of a class by its dotted name."""
        return option_types(_of_described((name, kind)))

    def parse_defaults(self, options: Sequence[str]) -> Namespace:
        """Parse the options of the chosen groups, again only if one of their files has changed."""
        key = tuple(
            yaml_file.current(Path(option)).read_text(encoding="utf-8")
            if option.endswith(yaml_file.SUFFIXES)
            else option
            for option in options
        )
        if key not in self._parsed:
            self._parsed[key] = self.parse_args(options)
        return self._parsed[key].clone()

    @override
    def add_class_arguments(
        self, class_type: type, nested_key: str | None = None, *, skip: set[str | int] | None = None, **options: Any
    ) -> list[str]:
        hidden: set[str | int] = {*(skip or ()), *getattr(class_type, "from_data", ())}
        lengths: list[str] = []
        if nested_key and self.help_of.endswith(f".{nested_key}"):
            # In the help of an option of a class, jsonargparse leaves out the name of the class's own option.
            self.description = str(self.description).replace(f"--{nested_key}", f"--{self.help_of}")
            nested_key = self.help_of
        if isinstance(class_type, type) and issubclass(class_type, LRScheduler):
            if reason := REFUSED.get(class_type.__name__):
                raise ValueError(f"{class_type.__name__} cannot be used, as {reason}")
            lengths = [name for name in LENGTHS if name in signature(class_type).parameters]
            hidden |= {"optimizer", *NOT_OPTIONS, *lengths}
        added: list[str] = super().add_class_arguments(class_type, nested_key, skip=hidden, **options)
        for name in lengths:
            option = f"{nested_key}.{name}" if nested_key else name
            self.add_argument(
                f"--{option}", type=int | None, default=None, help="Steps; null is the length of the training."
            )
            added.append(option)
        return added

    @override
    def parse_args(  # type: ignore[override]  # argparse has overloads, jsonargparse has none
        self, args: Sequence[str] | None = None, *more: Any, **options: Any
    ) -> Namespace:
        """Parse options such as `--cutout=8`, also those of a class inside of `--data`."""
        parsed: Namespace = super().parse_args(None if args is None else self._prepared(args), *more, **options)
        return plain_dataclasses(parsed)

    @override
    def parse_path(self, path: str, *more: Any, **options: Any) -> Namespace:
        """Parse a YAML file of settings."""
        self.file = path
        parsed: Namespace = super().parse_path(path, *more, **options)
        self.validate(parsed, skip_required=True)  # Otherwise, unknown options are found only later.
        self.file = ""
        return plain_dataclasses(parsed)

    def _prepared(self, args: Sequence[str]) -> Sequence[str]:
        """Replace options that jsonargparse does not know, and files by their copies.

        `--help=all` shows all options. `--NAME.help` without a class shows the options of the class that is chosen.
        """
        if self.settings:
            self._all_options = "--help=all" in args
            if wrong := [arg for arg in args if arg.startswith("--help=") and arg != "--help=all"]:
                raise ValueError(f"--help: got {wrong[0].removeprefix('--help=')!r}; give --help or --help all")
            chosen = {f"--{name}.help": value for name, value in self.settings.items() if isinstance(value, str)}
            args = [f"{arg}={chosen[arg]}" if arg in chosen else arg for arg in args]
            args = ["--help" if arg == "--help=all" else arg for arg in args]
            names = (arg.partition("=")[0].removeprefix("--") for arg in args)
            FitParser.help_of = next((name.removesuffix(".help") for name in names if name.endswith(".help")), "")
        else:
            # jsonargparse passes an option of a class to the parser of the class, and writes `null` as `None`.
            args = [f"{arg.removesuffix('None')}null" if arg.endswith("=None") else arg for arg in args]
        return [
            str(yaml_file.current(Path(arg))) if before == "--config" else arg
            for before, arg in zip(["", *args], args, strict=False)
        ]


@cache
def _of_described(*described: tuple[str, type]) -> FitParser:
    """Return a parser of the options of classes, each with the name of its setting."""
    parser = FitParser(usage=SUPPRESS, add_help=False)
    for name, kind in described:
        add = parser.add_class_arguments if isinstance(kind, type) else parser.add_function_arguments
        add(kind, name, fail_untyped=False)
    return parser
