"""The checks of `--register` before training."""

from mlflow import MlflowClient

from project.engine.cli.fit_cli import FitCLI
from project.engine.task import Task
from project.engine.tracking.logger import MLflowLogger
from project.engine.tracking.registered import check_name


def check_register(name: str, cli: FitCLI, client: MlflowClient) -> None:
    """Check that the run of a fit can be evaluated, and that its model can be registered.

    Args:
        name: Name of the registered model.
        cli: The fit, with its data loaded.
        client: Client of the store.

    Raises:
        ValueError: The store refuses the name, or the run will have no model or no predictions.
    """
    check_name(client, name)
    if MLflowLogger.of(cli.trainer) is None:
        raise ValueError(
            "--register: got --trainer.logger false or --trainer.fast_dev_run too, with which MLflow has no run; leave "
            "one of them out"
        )
    if not isinstance(cli.model, Task) or cli.model.serving_model() is None or cli.data.examples() is None:
        raise ValueError(
            f"--register: {type(cli.model).__name__} and {type(cli.datamodule).__name__} declare no model for MLflow "
            "to serve (Task.serving_model, and examples of the data); declare it, or leave out --register"
        )
    split = "test" if cli.data.has_test else "val"
    if not getattr(cli.trainer, f"limit_{split}_batches"):
        raise ValueError(
            f"--register: got --trainer.limit_{split}_batches 0 too, but the champion is decided on {split}; omit it"
        )
