"""A fit with the callbacks that every fit has."""

from collections.abc import Sequence

from jsonargparse import Namespace
from lightning import Callback
from lightning.pytorch.callbacks import LearningRateMonitor

from project.engine.checkpoints.finite import FiniteLoss
from project.engine.cli.command_line import CommandLine
from project.engine.cli.fit_cli import FitCLI
from project.engine.cli.terminal import progress
from project.engine.compat import learning_rates_on_the_cpu
from project.engine.loading import StepSeed
from project.engine.tracking.epoch_axis import EpochAxis
from project.engine.tracking.log_interval import LogInterval
from project.engine.tracking.throughput import Throughput


def build_fit(command: CommandLine, callbacks: Sequence[Callback] = ()) -> FitCLI:
    """Build data, model and trainer.

    Args:
        command: The command line.
        callbacks: More callbacks, called after those of every fit.

    Raises:
        ValueError, OSError, MisconfigurationException: The input is invalid.
    """

    def make_callbacks(settings: Namespace, given: Sequence[Callback]) -> list[Callback]:
        has_monitor = settings.logger is False or any(isinstance(one, LearningRateMonitor) for one in given)
        return [
            *progress(settings, given),
            *([] if has_monitor else [learning_rates_on_the_cpu(LearningRateMonitor(logging_interval="step"))]),
            *([LogInterval()] if settings.log_every_n_steps is None else []),
            FiniteLoss(),
            StepSeed(),
            Throughput(),
            *([EpochAxis()] if settings.logger is not False else []),
            *callbacks,
        ]

    return FitCLI(command, make_callbacks)
