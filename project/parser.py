"""The parser of the command line: options come from signatures, and those of schedules leave out what a fit knows."""

from inspect import signature
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from project.schedule import LENGTHS, NOT_OPTIONS


class FitParser(LightningArgumentParser):
    """Makes the length of a schedule optional, as it is the length of the training unless it is given."""

    @override
    def add_class_arguments(
        self,
        class_type: type,
        nested_key: str | None = None,
        *args: Any,
        skip: set[str | int] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        if not issubclass(class_type, LRScheduler):
            added: list[str] = super().add_class_arguments(class_type, nested_key, *args, skip=skip, **kwargs)
            return added
        lengths = [name for name in LENGTHS if name in signature(class_type).parameters and name not in NOT_OPTIONS]
        added = super().add_class_arguments(
            class_type, nested_key, *args, skip={*(skip or ()), *NOT_OPTIONS, *lengths}, **kwargs
        )
        prefix = f"{nested_key}." if nested_key else ""
        for name in lengths:
            self.add_argument(f"--{prefix}{name}", type=int | None, help="Steps; None is the length of the training.")
        return [*added, *(prefix + name for name in lengths)]
