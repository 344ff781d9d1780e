"""The fit that all trials of a sweep share, built and tried before the first of them."""

import warnings
from collections.abc import Sequence

from project.engine.cli.command_line import CommandLine
from project.engine.cli.fit_cli import FitCLI
from project.engine.cli.rehearsal import check_logged
from project.engine.cli.training_checks import check_training, try_first_step
from project.engine.monitor import declared
from project.engine.search.space import SearchSpace, check_values
from project.engine.search.sweep_options import NAMES
from project.engine.task import Task
from project.engine.tracking.logger import MLflowLogger
from project.engine.tracking.throughput import IMAGES_PER_SECOND, SAMPLES_PER_SECOND, WAIT_FRACTION
from project.engine.training.callbacks import build_fit

_VALIDATION = ("val/", "val_")
_OF_THE_ENGINE = {SAMPLES_PER_SECOND, IMAGES_PER_SECOND, WAIT_FRACTION}
_GOT = "--search: got the metric"
_OF_THE_SWEEP = ("accelerator", "devices", "num_nodes")


def check_no_overlap(space: SearchSpace, fit_options: Sequence[str]) -> None:
    """Raise ValueError for a setting that is given and varied, or that no trial can have for itself."""
    given = {_plain_name(option.partition("=")[0].removeprefix("--")) for option in fit_options}
    if "resume" in given:
        raise ValueError("--resume: a sweep is continued by its own command; --study names the study")
    if "rerun" in given:
        raise ValueError("--rerun: a sweep has settings of its own; give --config FILE with those of the run")
    for key in space.distributions:
        if _plain_name(key) in given:
            raise ValueError(f"--{key}: got a value for it, but --search varies it; leave one of them out")
        if _plain_name(key) in _OF_THE_SWEEP:
            raise ValueError(f"--search: {key} cannot be varied, because all trials get the same share of the machine")


def _plain_name(setting: str) -> str:
    """Return the shortest name of a setting: `devices` for `trainer.devices`, without the `init_args` of YAML."""
    return setting.replace(".init_args", "").removeprefix("trainer.")


def check_one_metric(space: SearchSpace) -> None:
    """Raise ValueError if several metrics are optimized, so that no trial is the best one."""
    if len(space.metrics) > 1:
        raise ValueError(
            f"--register: the search has the metrics {', '.join(space.metrics)}, so no trial is the best one; register "
            "a run of the front with project.evaluate RUN --register NAME"
        )


def checked_fit(space: SearchSpace, fit_options: Sequence[str]) -> FitCLI:
    """Build the fit, with its data loaded; trials get its command line.

    Raises:
        ValueError: The fit, or a value in the ranges, is impossible, or no run logs a metric of the search.
    """
    metric, direction = next(iter(space.directions.items()))
    judged: list[str] = []  # The model that a trial keeps is the one that it is judged by.
    if metric.startswith(_VALIDATION):
        mode = f"--checkpoint.mode={direction[:3]}"
        with warnings.catch_warnings(action="ignore"):  # The fit below repeats them.
            model = build_fit(CommandLine.parse([mode, *fit_options], NAMES)).model
        if isinstance(model, Task):
            check_logged(_GOT, metric, model.logged_metrics())
        if declared(model) != (metric, direction[:3]):
            judged = [f"--checkpoint.monitor={metric}", mode]
    built = build_fit(CommandLine.parse([*judged, *fit_options], NAMES))
    _check_promises(built)
    check_training(built)
    with warnings.catch_warnings(action="ignore"):  # They are in the output of the trials.
        check_values(space, lambda extra: _check_trial(built.command.argv, extra))
    _check_metrics(space, built)
    return built


def _check_metrics(space: SearchSpace, built: FitCLI) -> None:
    """Raise ValueError for a metric that no run logs."""
    for metric in space.metrics:
        if metric.startswith("test/") and not built.data.has_test:
            raise ValueError(f"--search: got the metric {metric}, but the data has no test; use val{metric[4:]}")
    known = built.model.logged_metrics() if isinstance(built.model, Task) else set()
    if unknown := set(space.metrics) - known - _OF_THE_ENGINE:
        logged = try_first_step(built)
        for metric in unknown:
            # Lightning logs a metric of each step and each epoch as NAME_step and NAME_epoch; callbacks know NAME, too.
            of_callbacks = {metric} if f"{metric}_epoch" in logged and not metric.startswith(_VALIDATION) else set()
            check_logged(_GOT, metric, logged - of_callbacks)


def _check_promises(cli: FitCLI) -> None:
    """Raise ValueError for options of `fit` that leave a trial without a score, an MLflow run or a machine."""
    settings, trainer = cli.config.trainer, cli.trainer
    if settings.fast_dev_run:
        raise ValueError(
            f"--trainer.fast_dev_run: got {settings.fast_dev_run}, but such a fit logs no metric to judge a trial "
            "by; use --max_epochs 1 and --trainer.limit_train_batches"
        )
    if not any(isinstance(logger, MLflowLogger) for logger in trainer.loggers):
        raise ValueError(
            f"--trainer.logger: got {settings.logger}, but each trial of a sweep is an MLflow run; leave the option out"
        )
    if trainer.num_nodes > 1:
        raise ValueError(
            f"--trainer.num_nodes: got {trainer.num_nodes}, but a trial runs on this machine alone; leave it out"
        )


def _check_trial(fit_options: Sequence[str], extra: Sequence[str]) -> None:
    cli = build_fit(CommandLine.parse([*fit_options, *extra]))
    _check_promises(cli)
    if any(option.startswith("--data.") for option in extra):
        check_training(cli)
