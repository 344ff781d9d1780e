"""Image classification: the LightningModule, for any net and any dataset."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from project.engine.checkpoints import restore_sums, save_sums
from project.engine.runtime.fsdp2 import shard
from project.engine.schedule import ScheduleCallable, WarmupCosine, check_schedule, make_schedule, total_steps
from project.tasks.sizes import accepted_sizes, refusal

NetCallable = Callable[[int, int, int], nn.Module]

Batch = tuple[Tensor, Tensor]


class ImageClassifier(LightningModule):
    """Cross-entropy training of a net on uint8 images; normalisation is part of the model.

    Args:
        net: Called with `num_classes`, `in_channels` and `image_size`, returns a module that maps
            normalised images (N, C, H, W) to logits (N, num_classes).
        num_classes: Number of classes; comes from the data, as do the next four.
        in_channels: Channels of the images.
        image_size: Side of the images in pixels.
        mean: Mean of each channel, of images in [0, 1].
        std: Standard deviation of each channel, of images in [0, 1].
        optimizer: Called with the parameters.
        lr_schedule: Called with the optimizer; any class of torch.optim.lr_scheduler that follows the step.
            Its unit of time is a step of the optimizer. `T_max` and `total_iters` are those of the whole training
            unless they are given, and `total_steps` always is.
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        compile: Compile the net with `torch.compile`; a sharded net cannot be.
        channels_last: Keep images and weights in the NHWC memory format; sharded weights stay contiguous.

    Raises:
        ValueError: The net does not take images of this size, or a setting is out of its range.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: NetCallable,
        num_classes: int,
        in_channels: int,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_schedule: ScheduleCallable = WarmupCosine,
        label_smoothing: float = 0.0,
        compile: bool = False,  # noqa: A002  # torch's word for it
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"model.label_smoothing: got {label_smoothing}; it must be in [0, 1)")
        if reason := refusal(lambda size: net(num_classes, in_channels, size), in_channels, image_size):
            sizes = accepted_sizes(lambda size: net(num_classes, in_channels, size), in_channels)
            if sizes:
                raise ValueError(f"data.image_size: got {image_size}; this model takes {sizes} pixels")
            raise ValueError(f"model.net: {reason}")
        self.net = net(num_classes, in_channels, image_size)
        try:
            unused = optimizer(self.net.parameters())  # impossible settings show before there is a run
        except ValueError as error:
            raise ValueError(f"model.optimizer: {error}") from error
        check_schedule(lr_schedule, unused)
        self.optimizer, self.lr_schedule = optimizer, lr_schedule
        self.label_smoothing, self.compile_net = label_smoothing, compile
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.train_loss = MeanMetric(nan_strategy="disable")  # a look at the values would make a GPU wait
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self._epoch_metrics = {"train/loss_epoch": self.train_loss, "train/accuracy": self.train_accuracy}
        self._epoch_has_sums = self._epoch_is_logged = False
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W), uint8, to logits (N, num_classes)."""
        floats = images.to(self.mean.dtype, memory_format=self.memory_format)
        logits: Tensor = self.net((floats / 255 - self.mean) / self.std)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.train_loss.update(loss.detach(), len(images))
        self.train_accuracy.update(logits, labels if labels.ndim == 1 else labels.argmax(1))  # mixed images have shares
        self._epoch_has_sums = True
        self.log("train/loss", loss)
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the epoch; if it was resumed after its validation, for the callbacks alone."""
        if self._epoch_is_logged:
            for name, metric in self._epoch_metrics.items():
                self.trainer.callback_metrics[name] = metric.compute()
                metric.reset()
        elif self._epoch_has_sums:
            self.log("train/loss_epoch", self.train_loss)
            self.log("train/accuracy", self.train_accuracy, prog_bar=True)
        self._epoch_has_sums = self._epoch_is_logged = False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        save_sums(self.trainer, self._epoch_metrics, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._epoch_has_sums, self._epoch_is_logged = restore_sums(self.trainer, self._epoch_metrics, checkpoint)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._evaluate(batch, "val", self.val_accuracy)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._evaluate(batch, "test", self.test_accuracy)

    def _evaluate(self, batch: Batch, stage: str, accuracy: MulticlassAccuracy) -> Tensor:
        images, labels = batch
        logits: Tensor = self(images)
        accuracy(logits, labels)
        self.log(f"{stage}/loss", F.cross_entropy(logits, labels), sync_dist=True)
        self.log(f"{stage}/accuracy", accuracy, prog_bar=True)
        return logits

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            shard(self.net, self.device_mesh)  # FSDP2 refuses weights in another format than the contiguous one.
        else:
            self.net.to(memory_format=self.memory_format)
        if self.compile_net:
            self.net.compile()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimizer(self.net.parameters())
        schedule = make_schedule(self.lr_schedule, optimizer, total_steps(self.trainer))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"}}
