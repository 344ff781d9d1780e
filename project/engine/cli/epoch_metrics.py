"""The metrics in the line of an epoch: which ones, in which order, and their values in this epoch."""

import re
from collections.abc import Iterable, Mapping

from lightning import Trainer

from project.engine.checkpoints.checkpoint import RunCheckpoint
from project.engine.cli.epoch_table import Cell
from project.engine.task import Task
from project.engine.tracking.names import score_text

_STAGE = re.compile(r"(train|val)(?:id|idation|ing)?[/_](.+)")
_LOSS = "loss"
_ORDER = {"train": 0, "val": 1}


class EpochMetrics:
    """The losses, the monitored metric, and the metrics that the model shows in the progress bar.

    A metric whose name begins with `val` has no value in an epoch without validation.
    """

    def __init__(self) -> None:
        self._names: dict[str, None] = {}  # In the order in which they were found.
        self._is_validated = False

    def add_validation(self, trainer: Trainer) -> None:
        """Read the names that a validation has logged."""
        self._is_validated = not trainer.sanity_checking
        self._find(trainer)

    def cells(self, trainer: Trainer, best: Mapping[str, float]) -> list[Cell]:
        """Return the metrics of the epoch that has ended: those of training, then those of the validation.

        Args:
            trainer: The trainer.
            best: The metrics of the best checkpoint if it is of this epoch.
        """
        self._find(trainer)
        checkpoint = RunCheckpoint.of(trainer)
        monitor = checkpoint.monitor if checkpoint else None
        logged = trainer.callback_metrics.items()
        values = {name: value.item() for name, value in logged if self._is_validated or _parted(name)[0] != "val"}
        values.update(best)
        self._is_validated = False
        named = [(*_parted(name), name) for name in _of_epochs(self._names)]
        named.sort(key=lambda one: (_ORDER.get(one[0], len(_ORDER)), not one[1].startswith(_LOSS), one[2] != monitor))
        return [
            Cell(group, short, score_text(values[name]) if name in values else "", _rank(group, short, name == monitor))
            for group, short, name in named
        ]

    def of_steps(self, trainer: Trainer) -> dict[str, float]:
        """Return the metrics of the current step: those of the progress bar, and the training loss."""
        model = trainer.lightning_module
        of_epochs = model.logged_metrics() if isinstance(model, Task) else set()
        names = [name for name in trainer.progress_bar_metrics if name not in of_epochs and _parted(name)[0] != "val"]
        names = names or [name for name in trainer.callback_metrics if _parted(name) == ("train", _LOSS)][:1]
        return {name: trainer.callback_metrics[name].item() for name in names if name in trainer.callback_metrics}

    def _find(self, trainer: Trainer) -> None:
        """Add names; those of a `Task` are known before the first validation, so that the columns stay the same."""
        model, checkpoint, logged = trainer.lightning_module, RunCheckpoint.of(trainer), trainer.callback_metrics
        found = [name for name in logged if _is_loss(*_parted(name))]
        found += [checkpoint.monitor] if checkpoint and checkpoint.monitor in logged else []
        found += trainer.progress_bar_metrics
        if isinstance(model, Task):
            stages = ("train/", "val/") if trainer.enable_validation else ("train/",)
            found += sorted(name for name in model.logged_metrics() if name.startswith(stages))
        self._names.update(dict.fromkeys(found))


def _parted(name: str) -> tuple[str, str]:
    """Return the stage of a metric, `train`, `val` or empty, and the rest of its name, with its loader if numbered."""
    name, _, loader = name.partition("/dataloader_idx_")
    match = _STAGE.fullmatch(name)
    stage, rest = (match[1], match[2]) if match else ("", name)
    rest = rest.removesuffix("_epoch")
    return stage, f"{rest}_{loader}" if loader else rest


def _is_loss(stage: str, name: str) -> bool:
    """Return whether a metric is the loss of a stage, or one of the losses of a module without stages, as of a GAN."""
    return name.startswith(_LOSS) if stage else _LOSS in re.split("[/_]", name)


def _of_epochs(names: Iterable[str]) -> list[str]:
    """Return the names without those of single steps, if Lightning logs their means over an epoch too."""
    known = set(names)
    return [name for name in names if f"{name.removesuffix('_step')}_epoch" not in known]


def _rank(group: str, name: str, is_monitored: bool) -> int:
    if is_monitored:
        return 0
    return 1 if name == _LOSS else 6 if group == "train" else 2  # Lines have the ranks 3 to 5 for the speed.
