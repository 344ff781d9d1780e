"""Predictions for files by the model of a trained run."""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from project.engine.cli.errors import exit_on_bad_input
from project.engine.inference.evaluation_cli import EvaluationCLI
from project.engine.inference.inputs import named_files
from project.engine.inference.options import parse_prediction
from project.engine.inference.prediction_data import GIVEN, PredictionImages, files_as_data
from project.engine.inference.tables import write_table
from project.engine.inference.trained_run import TrainedRun, find_trained_run
from project.engine.runtime.output import lost_output
from project.engine.runtime.progress import progress_bar
from project.engine.runtime.startup import update_activity
from project.engine.task import Task
from project.engine.training.stop import Interrupts, interruptible_command

_NAMED = 3


class PredictionJob:
    """Predictions that are built and checked.

    Attributes:
        paths: The files.
        bad: Files without a prediction, with the reason.
        lost: Why standard output could not be written; None if it could.
    """

    lost: str | None = None

    def __init__(self, run: TrainedRun, options: Namespace, interrupts: Interrupts) -> None:
        self._options = options
        self.output: Path | None = options.output
        self.paths = named_files(options.paths)
        self._predictions = Predictions(options.top_k)
        cli = EvaluationCLI(_for_files(run, options), [], [interrupts, self._predictions])
        assert isinstance(cli.datamodule, PredictionImages)
        self._trainer, self._model, self._data = cli.trainer, cli.model, cli.datamodule
        self._checkpoint = run.checkpoint
        if not isinstance(self._model, Task):
            raise ValueError(f"run {run.run_id}: {type(self._model).__name__} does not declare Task.predictions")
        self._check(self._model)
        self._data.use(self.paths)
        print(f"{run.line()}\npredicting {_counted(len(self.paths), 'file')}", file=sys.stderr, flush=True)

    def _check(self, model: Task) -> None:
        """Raise ValueError if the outputs of the model cannot be the rows of a table."""
        side = self._data.image_size
        was_training = model.training
        with torch.no_grad():
            outputs = model.eval()(torch.zeros(2, self._data.in_channels, side, side, dtype=torch.uint8))
        model.predictions(outputs, self._options.top_k)
        model.train(was_training)

    @property
    def bad(self) -> dict[Path, str]:
        """Files without a prediction, with the reason, in their order."""
        return {self.paths[index]: reason for index, reason in sorted(self._data.files.bad.items())}

    def run(self) -> dict[str, Any]:
        """Return a table with a row for each file: its path, its prediction, and its error."""
        with progress_bar("predicting", len(self.paths)) as self._predictions.show:
            self._trainer.predict(
                self._model, self._data, ckpt_path=self._checkpoint, return_predictions=False, weights_only=True
            )
        bad = self._data.files.bad
        columns: dict[str, Any] = {"path": [str(path) for path in self.paths]}
        for name, values in self._predictions.columns().items():
            columns[name] = [None if index in bad else value for index, value in enumerate(values)]
        return columns | {"error": [bad.get(index, "") for index in range(len(self.paths))]}

    def write(self, table: Mapping[str, Any]) -> None:
        """Write the table to the output, and a line about it to standard error."""
        write_table(table, self.output or sys.stdout.buffer)
        if self.output is None:
            sys.stdout.flush()
            self.lost = lost_output()
        if not self.lost:
            done, where = len(self.paths) - len(self.bad), self.output or "standard output"
            print(f"{_counted(done, 'prediction')} in {where}", file=sys.stderr, flush=True)
        if self.bad:
            shown = "; ".join(f"{path}: {reason}" for path, reason in list(self.bad.items())[:_NAMED])
            total = _counted(len(self.paths), "file")
            print(f"error: {len(self.bad):,} of {total} cannot be read: {shown}", file=sys.stderr)


class Predictions(Callback):
    """The predictions of `trainer.predict`.

    Args:
        top_k: Number of predictions for each file.

    Attributes:
        show: Called with the number of files that have a prediction.
    """

    show: Callable[[float], None]

    def __init__(self, top_k: int) -> None:
        self._top_k, self._done = top_k, 0
        self._batches: list[dict[str, Any]] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(pl_module, Task)
        views = len(outputs) // len(batch[1])
        if views > 1:
            outputs = pl_module.averaged(outputs.chunk(views))
        self._batches.append(pl_module.predictions(outputs.float().cpu(), self._top_k))
        self._done += len(batch[1])
        self.show(self._done)

    def columns(self) -> dict[str, list[Any]]:
        """Return the columns of all batches."""
        return {name: [value for batch in self._batches for value in batch[name]] for name in self._batches[0]}


@contextmanager
def open_prediction(argv: Sequence[str]) -> Iterator[PredictionJob]:
    """Build and check predictions for a block of code.

    Args:
        argv: The run, the files, and options.

    Raises:
        SystemExit: 2 if the input is bad; 130 or 143 if this process is interrupted.
    """
    with interruptible_command("no predictions were written") as interrupts:
        options = parse_prediction(argv)
        update_activity("checking run and files")
        with exit_on_bad_input():
            job = PredictionJob(find_trained_run(options.run), options, interrupts)
        yield job


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _for_files(run: TrainedRun, options: Namespace) -> TrainedRun:
    """Return the run with the settings of its model, files as its data, and one device.

    Raises:
        ValueError: The inputs of its model are not images.
    """
    if not set(GIVEN) <= run.given_by_data.keys():
        raise ValueError(
            f"run {run.run_id}: its checkpoint has no image_size and in_channels, which predictions need; it is not a "
            "task on images, or an earlier version of this project trained it"
        )
    settings = yaml.safe_load(run.settings)
    trained_on, trainer = settings["data"].get("init_args", {}), settings["trainer"]
    workers = dict(trained_on.get("workers") or {})
    if options.workers is not None:
        workers["num"] = options.workers
    batch_size = options.batch_size or trained_on.get("batch_size") or 64
    settings["data"] = files_as_data(run, batch_size=batch_size, workers=workers, tta=options.tta)
    settings["trainer"] = {
        "accelerator": options.accelerator or trainer["accelerator"],
        "devices": 1,
        "precision": options.precision or trainer["precision"],
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return run._replace(settings=yaml.safe_dump(settings))
