"""The descriptions of a fit's run, experiment and model."""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from mlflow.models import ModelSignature
from torch.nn.parameter import UninitializedParameter

from project.engine.checkpoints.checkpoint import RunCheckpoint
from project.engine.cli.fit_cli import FitCLI
from project.engine.task import Baseline
from project.engine.tracking.best_effort import best_effort
from project.engine.tracking.description import TAG, describe_experiment, describe_fit, describe_model
from project.engine.tracking.logger import MLflowLogger
from project.engine.tracking.names import score_text, short
from project.engine.training import served_images
from project.engine.training.next_commands import is_trial, next_commands

_SERVING = (
    "mlflow models serve -m model --env-manager local --port 5001 &",
    """echo '{"dataframe_records": [{"image": "'$(base64 < photo.jpg | tr -d '\\n')'"}]}' |""",
    "  curl -s -H 'Content-Type: application/json' -d @- http://127.0.0.1:5001/invocations",
)
"""Commands that serve the output of `project.export` and send it an image."""


def describe_start(cli: FitCLI, logger: MLflowLogger) -> None:
    """Describe a run before its training. The description remains if the training does not finish."""
    resume = {} if is_trial() else {"resume": f"python -m project.fit --resume {logger.version}"}
    logger.set_tags({TAG: describe_fit(_trained(cli), cli.data.found(), {}, resume)})


def describe_result(
    cli: FitCLI, logger: MLflowLogger | None, scores: Mapping[str, float], baseline: Baseline | None
) -> None:
    """Describe a run after its training, with its result, if it is tracked."""
    if logger is None:
        return
    with best_effort(logger, "description", "the description of the run has no result"):
        commands, ending = next_commands(cli, logger.version), _ending(cli.trainer)
        if baseline:
            ending = f"Baseline: {score_text(baseline.value)} by {baseline.sentence}. {ending}"
        logger.set_tags({TAG: describe_fit(_trained(cli), cli.data.found(), with_best(cli, scores), commands, ending)})


def experiment_note(cli: FitCLI, command: str) -> str:
    """Return the description of an experiment that begins with this fit."""
    checkpoint = RunCheckpoint.of(cli.trainer)
    monitor = checkpoint.monitored if checkpoint else ""
    commands = {"view": "python -m project.ui", "train": command, **next_commands(cli, None)}
    return describe_experiment(cli.data.found() or [f"Data: {cli.data.name}"], monitor, commands)


def model_tags(
    cli: FitCLI, run_id: str | None, scores: Mapping[str, float], signature: ModelSignature, stored: Mapping[str, Any]
) -> dict[str, str]:
    """Return the tags of a logged model: its description, its dataset, and what is stored with it.

    Args:
        cli: The fit.
        run_id: Its run.
        scores: Metrics of the best checkpoint.
        signature: The inputs and outputs of the model.
        stored: What is stored with the model, such as names of classes.
    """
    digest = f" ({cli.data.digest()})" if cli.data.digest() else ""
    named = {"dataset": f"{cli.data.name}{digest}", **{name: short(value) for name, value in stored.items()}}
    best, commands = with_best(cli, scores), next_commands(cli, run_id)
    serving = _SERVING if run_id and signature.inputs.input_names() == served_images.COLUMNS else ()
    return {TAG: describe_model(_trained(cli), cli.data.found(), best, named, commands, serving), **named}


def with_best(cli: FitCLI, scores: Mapping[str, float]) -> dict[str, float]:
    """Return the main scores first, then the others, then the metrics of the best checkpoint's validation."""
    checkpoint, shown = RunCheckpoint.of(cli.trainer), cli.trainer.progress_bar_metrics
    best = {f"best/{name}": value for name, value in checkpoint.best_metrics.items()} if checkpoint else {}
    ordered = sorted(scores, key=lambda name: name not in shown)
    monitored = sorted(best, key=lambda name: name != f"best/{checkpoint.monitor if checkpoint else ''}")
    return {name: scores[name] for name in ordered} | {name: best[name] for name in monitored}


def _trained(cli: FitCLI) -> str:
    trainer, model = cli.trainer, cli.model
    devices = f"{devices_text(trainer)}, {cli.strategy_name}, {trainer.precision}"
    task = f"{type(model).__name__}, {parameters_text(model)}"
    return f"**{cli.net_name}** ({task}), trained on **{cli.data.name}** with {devices}."


def parameters_text(model: LightningModule) -> str:
    """Return the number of parameters, and how many of them are trained if some are not."""
    parameters = list(model.parameters())
    if not parameters or any(isinstance(parameter, UninitializedParameter) for parameter in parameters):
        return "parameters known after the first batch"  # `configure_model` may make them later.
    count, trained = sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
    return f"{count:,} parameters" + (f", {trained:,} of them trained" if trained < count else "")


def devices_text(trainer: Trainer) -> str:
    """Return number and kind of the devices, such as `2 CUDA`."""
    return f"{trainer.world_size} {trainer.accelerator.__class__.__name__.removesuffix('Accelerator')}"


def _ending(trainer: Trainer) -> str:
    checkpoint = RunCheckpoint.of(trainer)
    epoch = checkpoint.best_epoch if checkpoint else None
    if checkpoint is None or epoch is None:
        return f"Trained for {trainer.current_epoch} epochs, {trainer.global_step:,} steps."
    last = max(epoch, trainer.current_epoch)
    return f"The best epoch by `{checkpoint.monitor}` ({checkpoint.mode}) is {epoch} of {last}."
