"""The throughput of training, and the share of time spent waiting for data."""

from time import perf_counter
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.data import extract_batch_size

from project.engine.compat import is_step_done
from project.engine.loading import BatchLoader
from project.engine.tracking.names import AVERAGE_SPEED

SAMPLES_PER_SECOND, IMAGES_PER_SECOND = "throughput/samples_per_second", "throughput/images_per_second"
WAIT_FRACTION = "data/wait_fraction"


class Speed:
    """The samples of all ranks in some steps, the seconds of these steps, and the part of them spent waiting."""

    samples = 0
    seconds = 0.0
    wait_s = 0.0

    @property
    def samples_per_second(self) -> float:
        """Samples of all ranks per second of training."""
        return self.samples / max(self.seconds, 1e-9)

    @property
    def wait_fraction(self) -> float:
        """Share of the training time, in [0, 1]."""
        return self.wait_s / max(self.seconds, 1e-9)


class Throughput(Callback):
    """Callback that logs samples per second of all ranks, and the share of time in which the device waits for data.

    A value is logged every `log_every_n_steps` steps of the trainer. It covers the steps since the previous value,
    without validation. At the end of training, the average over all its steps is logged.

    Attributes:
        total: The speed of the whole training.
        epoch: The speed in the epoch that began last.
        advice: A remedy against waiting.
        unit: Name of the samples.
    """

    def __init__(self) -> None:
        self.total, self.epoch, self._window = Speed(), Speed(), Speed()
        self._start = 0.0
        self._waited = 0.0
        self.advice = "try more loading processes"
        self.unit = "samples"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.advice = getattr(trainer.train_dataloader, "advice", self.advice)
        self.unit = "images" if isinstance(trainer.train_dataloader, BatchLoader) else "samples"
        # A run that resumes mid-epoch has no start of this epoch.
        self._start, self._waited = perf_counter(), _wait_s(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch = Speed()
        self._start, self._waited = perf_counter(), _wait_s(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        now, waited = perf_counter(), _wait_s(trainer)
        samples, seconds, wait_s = _batch_size(batch) * trainer.world_size, now - self._start, waited - self._waited
        for speed in (self.total, self.epoch, self._window):
            speed.samples += samples
            speed.seconds += seconds
            speed.wait_s += wait_s
        self._start, self._waited = now, waited
        every_n_steps: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every_n_steps and trainer.global_step % every_n_steps == 0 and is_step_done(trainer):
            # On the CPU, because Lightning would copy numbers to the device, and wait for it.
            values = {name: torch.tensor(value) for name, value in self._metrics().items()}
            pl_module.log_dict(values, batch_size=1)
            self._window = Speed()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.total.samples:
            return
        # The steps since the last value, or all steps of a short training.
        last = self._metrics() if self._window.samples else {}
        for logger in trainer.loggers:
            logger.log_metrics(last | {AVERAGE_SPEED: self.total.samples_per_second}, trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = perf_counter()

    def _metrics(self) -> dict[str, float]:
        rate = self._window.samples_per_second
        images = {IMAGES_PER_SECOND: rate} if self.unit == "images" else {}
        return {SAMPLES_PER_SECOND: rate, **images, WAIT_FRACTION: self._window.wait_fraction}


def rate_text(rate: float) -> str:
    """Return samples per second as text, such as `4,052` or `3.14`."""
    return f"{rate:,.3g}" if rate < 10 else f"{rate:,.0f}"


def _batch_size(batch: Any) -> int:
    try:
        return extract_batch_size(batch)
    except MisconfigurationException:  # no tensor is in it
        return 1


def _wait_s(trainer: Trainer) -> float:
    # A loader without this measurement, such as a plain DataLoader, counts as no waiting.
    return float(getattr(trainer.train_dataloader, "wait_s", 0.0))
