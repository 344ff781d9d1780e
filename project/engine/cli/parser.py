"""The parser of the command line: options come from signatures, those of schedules without what the training gives."""

from inspect import signature
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from project.engine.schedule import LENGTHS, NOT_OPTIONS, REFUSED


class FitParser(LightningArgumentParser):
    """Makes the length of a schedule optional, as it is the length of the training unless another one is given.

    Raises:
        ValueError: A schedule cannot work here.
    """

    @override
    def add_class_arguments(
        self, class_type: type, nested_key: str | None = None, *, skip: set[str | int] | None = None, **options: Any
    ) -> list[str]:
        hidden, lengths = set(skip or ()), []
        if isinstance(class_type, type) and issubclass(class_type, LRScheduler):
            if reason := REFUSED.get(class_type.__name__):
                raise ValueError(f"{class_type.__name__} cannot be used, as {reason}")
            lengths = [name for name in LENGTHS if name in signature(class_type).parameters]
            hidden |= {*NOT_OPTIONS, *lengths}
        added: list[str] = super().add_class_arguments(class_type, nested_key, skip=hidden, **options)
        for name in lengths:
            option = f"{nested_key}.{name}" if nested_key else name
            self.add_argument(
                f"--{option}", type=int | None, default=None, help="Steps; null is those of the training."
            )
            added.append(option)
        return added
