"""An exported model, which is compared with the model in PyTorch."""

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import torch
import torch.nn.functional as F
import yaml
from lightning import LightningDataModule
from torch import Tensor

from project.engine.cli.errors import exit_on_bad_input
from project.engine.inference.evaluation_cli import EvaluationCLI
from project.engine.inference.export_formats import FORMATS, Program, TrainedModel, missing_packages
from project.engine.inference.inputs import named_files
from project.engine.inference.options import parse_export
from project.engine.inference.prediction_data import GIVEN, PredictionImages, files_as_data
from project.engine.inference.trained_run import TrainedRun, find_trained_run
from project.engine.loading import Crop
from project.engine.runtime.failure import shortened
from project.engine.runtime.startup import update_activity
from project.engine.task import Task
from project.engine.training.stop import interruptible_command

_MOST_IMAGES = 32
_TOLERANCE = 1e-3


class ExportJob:
    """An export whose model, images and output are checked."""

    def __init__(self, run: TrainedRun, options: Namespace) -> None:
        self._format = options.format
        if missing := missing_packages(self._format):
            raise ValueError(
                f"--format: got {self._format}, without {', '.join(missing)}; install the extra: "
                "uv sync --extra onnx, or pip install '.[onnx]'"
            )
        self.output: Path = options.output
        try:
            cli = EvaluationCLI(_on_cpu(run, options.images), [], [])
        except OSError as error:
            raise OSError(f"{error}; if the data of the run are absent, give --images PATH...") from error
        task = _trained(cli, run)
        given = run.given_by_data
        names, module = task.serving_names(), task.serving_model()
        if module is None or not names or not set(GIVEN) <= given.keys():
            raise ValueError(
                f"run {run.run_id}: {type(task).__name__} declares no model of images to serve; override "
                "Task.serving_model and Task.serving_names"
            )
        images = named_files(options.images) if options.images else None
        self._images = _images_of_files(images, cli.datamodule) if images else _images_of_data(cli.datamodule)
        self._model = TrainedModel(task, module.eval(), names, _two(self._images), run.decoding)
        print(run.line(), flush=True)

    def write(self) -> None:
        """Write the output after it is complete and compared with the model in PyTorch.

        Raises:
            SystemExit: 1 if the model cannot be exported, or differs, or another command has written the output.
        """
        write, load = FORMATS[self._format]
        with TemporaryDirectory(prefix=".export-", dir=self.output.parent) as folder:
            unfinished = Path(folder) / self.output.name
            try:
                write(self._model, unfinished)
                difference = self._largest_difference(load(unfinished))
            # torch.export cannot trace every net, and a disk may be full.
            except (AssertionError, OSError, RuntimeError, ValueError) as error:
                self._fail(f"the model cannot be exported as {self._format}: {' '.join(str(error).split())}")
            compared = f"largest difference to PyTorch on {len(self._images)} images: {difference:.1e}"
            if not difference <= _TOLERANCE:
                self._fail(f"{compared}, more than {_TOLERANCE}")
            if self.output.exists():
                self._fail(f"--output: {self.output} exists; another command has written it")
            unfinished.rename(self.output)
        print(f"{self.output}: {compared} (tolerance {_TOLERANCE})")

    def _fail(self, reason: str) -> NoReturn:
        """Print the reason, and exit with 1."""
        print(f"error: {shortened(reason)}; nothing is written", file=sys.stderr)
        sys.exit(1)

    @torch.no_grad()
    def _largest_difference(self, program: Program) -> float:
        """Compare probabilities: of all images, of one, and of images with another size."""
        size = self._images.shape[-1]
        larger = F.interpolate(self._images[:3], size=(2 * size + 1, 3 * size), mode="bilinear")
        cropped, _ = Crop(size)(larger, torch.zeros(len(larger)), None)
        pairs = [(self._images, self._images), (self._images[:1], self._images[:1]), (larger, cropped)]
        return max(
            float((program(given.permute(0, 2, 3, 1).contiguous()) - self._model.module(seen)).abs().max())
            for given, seen in pairs
        )


def _trained(cli: EvaluationCLI, run: TrainedRun) -> Task:
    if not isinstance(cli.model, Task):
        raise ValueError(f"run {run.run_id}: {type(cli.model).__name__} is not a Task, which declares what is exported")
    state = torch.load(run.checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    cli.model.load_state_dict(state)
    return cli.model.eval().requires_grad_(False)  # so that outputs of a program are plain tensors


def _on_cpu(run: TrainedRun, images: Sequence[str] | None) -> TrainedRun:
    """Return the run with the settings of its model, on the CPU, and with image files as its data if they are given."""
    settings = yaml.safe_load(run.settings)
    settings["trainer"] = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    if images:
        settings["data"] = files_as_data(run, batch_size=_MOST_IMAGES)
    return run._replace(settings=yaml.safe_dump(settings))


def _images_of_data(data: LightningDataModule) -> Tensor:
    """Return images of the run's validation as its model receives them, (N, C, size, size) uint8."""
    data.prepare_data()
    data.setup("validate")
    images: Tensor = next(iter(data.val_dataloader()))[0]
    return images[:_MOST_IMAGES].contiguous()


def _images_of_files(paths: Sequence[Path], data: LightningDataModule) -> Tensor:
    """Return the first files as the run's model receives them, (N, C, size, size) uint8."""
    assert isinstance(data, PredictionImages)
    data.use(paths[:_MOST_IMAGES])
    images: Tensor = next(iter(data.predict_dataloader()))[0]
    for index, reason in data.files.bad.items():
        raise ValueError(f"--images: {paths[index]}: {reason}")
    return images.contiguous()


def _two(images: Tensor) -> Tensor:
    return images[:2] if len(images) > 1 else images.expand(2, -1, -1, -1)


@contextmanager
def open_export(argv: Sequence[str]) -> Iterator[ExportJob]:
    """Build and check an export for a block of code.

    Args:
        argv: The run, and options.

    Raises:
        SystemExit: 2 if the input is bad; 130 or 143 if this process is interrupted.
    """
    with interruptible_command("the export is not complete"):
        options = parse_export(argv)
        update_activity("checking run and images")
        with exit_on_bad_input():
            job = ExportJob(find_trained_run(options.run), options)
        yield job
