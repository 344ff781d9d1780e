"""The command that trains with the parameters of a trial, without the limits that made the trials short."""

import shlex
from collections.abc import Sequence

from optuna.trial import FrozenTrial

from project.engine.cli.fit_cli import FitCLI
from project.engine.search.space import fit_options

_EPOCHS = ("--max_epochs", "--trainer.max_epochs")
_STEPS = "--trainer.max_steps"
_BATCHES = ("--trainer.limit_train_batches", "--trainer.limit_val_batches", "--trainer.limit_test_batches")


class TrainingCommand:
    """The maker of commands that train with a trial's parameters, for the usual number of epochs if trials are shorter.

    Args:
        module: The module that trains.
        built: The fit that all trials share; its chosen groups set the usual number of epochs.

    Attributes:
        is_longer: Whether the command trains for longer than the trials.
    """

    def __init__(self, module: str, built: FitCLI) -> None:
        given = {option.partition("=")[0] for option in built.command.argv}
        self._module, self._dropped, self._added = module, set(_BATCHES), list[str]()
        usual, epochs = built.default_settings.get("trainer.max_epochs") or 0, built.trainer.max_epochs or 0
        has_few_steps = 0 <= built.trainer.max_steps < usual * _steps_per_epoch(built)
        if has_few_steps:
            self._dropped.add(_STEPS)
        if 0 < epochs < usual or (epochs <= 0 and has_few_steps):
            self._dropped |= set(_EPOCHS)
            self._added = ["--max_epochs", str(usual)]
        self.is_longer = bool(self._added or self._dropped & given)

    def __call__(self, argv: Sequence[str], trial: FrozenTrial) -> str:
        """Return the command.

        Args:
            argv: Options that all trials share.
            trial: The trial.
        """
        options = [*_without(argv, self._dropped), *self._added, *fit_options(trial.params)]
        return shlex.join(["python", "-m", self._module, *options])


def _steps_per_epoch(built: FitCLI) -> int:
    """Return the optimizer steps in an epoch; 0 if the data does not declare its batches."""
    counts = built.data.batch_counts(built.trainer.world_size)
    return counts["train"].batches // built.trainer.accumulate_grad_batches if "train" in counts else 0


def _without(argv: Sequence[str], dropped: set[str]) -> list[str]:
    """Return a command line without some options and their values."""
    kept: list[str] = []
    is_value_dropped = False
    for word in argv:
        option, equals, _ = word.partition("=")
        if option.startswith("--"):
            is_value_dropped = option in dropped and not equals
        if option not in dropped and not is_value_dropped:
            kept.append(word)
    return kept
