"""The compared trainings: hand-written loops, Lightning's Trainer alone, and `project.fit`."""

import os
import sys
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from benchmarks.slices import Counter, Steps
from project.data import LabelledImages
from project.engine.loading import ImageArray, Split
from project.engine.runtime.allocator import keep_freed_memory
from project.engine.schedule import WarmupCosine
from project.fit import main as fit
from project.models import CNN, TorchvisionModel
from project.tasks import ImageClassifier

BATCH_SIZE, CLASSES, READ_EVERY = 64, 10, 10
LENGTH = 10**6  # of the schedule, in steps

NETS: dict[str, list[str]] = {
    "small": ["--model.net.widths=[8,8,16,16]", "--model.net.hidden=64"],
    "default": [],
    "resnet18": ["--model=resnet18"],
}

Batch = tuple[Tensor, Tensor]


class Random(LabelledImages):
    """100,000 images of noise, so that an epoch is long."""

    name = "random"
    native_size, native_channels = 28, 1
    native_mean, native_std = (0.5,), (0.25,)
    class_names = tuple("0123456789")

    def load(self, split: Split) -> ImageArray:
        generator = torch.Generator().manual_seed(0)
        count = 100_000 if split == "train" else 1_000
        labels = torch.randint(CLASSES, (count,), generator=generator)
        return ImageArray(torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator), labels)


class Batches(IterableDataset[Batch]):
    """Endless random batches of the images, on the CPU."""

    def __init__(self) -> None:
        array = Random().load("train")
        self.images, self.labels = array.images, array.targets

    def __iter__(self) -> Iterator[Batch]:
        while True:
            for indices in torch.split(torch.randperm(len(self.images)), BATCH_SIZE):
                yield self.images[indices], self.labels[indices]


def make_net(name: str) -> nn.Module:
    """Return the net that `fit` builds for the options of `NETS`."""
    if name == "resnet18":
        return TorchvisionModel(CLASSES, 1, 28)
    small = {"widths": [8, 8, 16, 16], "hidden": 64} if name == "small" else {}
    return CNN(CLASSES, 1, 28, **small)  # type: ignore[arg-type]


def hand_written(steps: Steps, net: str, device: str, settings_of_fit: bool = False) -> None:
    """Train with a loop of torch's own calls; with torch's default settings, or with those of `fit` for the net."""
    keep_freed_memory()
    model = make_net(net).to(device)
    memory_format = format_of_fit(model) if settings_of_fit else torch.contiguous_format
    loop(steps, model.to(memory_format=memory_format), device, memory_format, fused=True if settings_of_fit else None)


def format_of_fit(model: nn.Module) -> torch.memory_format:
    """Return the memory format in which `fit` keeps images, and weights that are not sharded."""
    return torch.channels_last if isinstance(model, CNN) else torch.contiguous_format


def hand_written_group(steps: Steps, net: str, device: str, strategy: str) -> None:
    """Train with the same loop in each process of a group, with DistributedDataParallel or `fully_shard`.

    The loop has the settings of `fit`.
    """
    keep_freed_memory()
    dist.init_process_group("gloo" if device == "cpu" else "nccl")
    if device != "cpu":
        torch.cuda.set_device(dist.get_rank())
    torch.manual_seed(0)  # FSDP2 takes each process's own weights.
    model = make_net(net).to(device)
    torch.manual_seed(dist.get_rank())
    memory_format = format_of_fit(model)
    if strategy == "ddp":
        model = DistributedDataParallel(model.to(memory_format=memory_format))
    else:
        mesh = init_device_mesh(device, (dist.get_world_size(),))
        for part in model.children():
            if any(True for _ in part.parameters()):
                fully_shard(part, mesh=mesh)
        fully_shard(model, mesh=mesh)
    loop(steps, model, device, memory_format, fused=True)


def loop(
    steps: Steps, model: nn.Module, device: str, memory_format: torch.memory_format, *, fused: bool | None
) -> None:
    """Train a model until `steps` is stopped."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    schedule = WarmupCosine(optimizer, LENGTH)
    correct, pin = torch.zeros((), device=device, dtype=torch.long), device != "cpu"
    for images, labels in Batches():
        if pin:
            images, labels = images.pin_memory(), labels.pin_memory()
        images, labels = images.to(device, non_blocking=pin), labels.to(device, non_blocking=pin)
        logits = model((images.to(torch.float32, memory_format=memory_format) / 255 - 0.5) / 0.25)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        correct += (logits.detach().argmax(1) == labels).sum()
        steps.add()
        if steps.count % READ_EVERY == 0:
            loss.item()
        if steps.stopped:
            return


class Plain(LightningModule):
    """The same training as a user of Lightning writes it."""

    def __init__(self, net: nn.Module, *, logs: bool) -> None:
        super().__init__()
        self.net, self.logs, self.accuracy = net, logs, MulticlassAccuracy(CLASSES, average="micro")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.net((images.float() / 255 - 0.5) / 0.25)
        loss = F.cross_entropy(logits, labels)
        if self.logs:
            self.accuracy(logits, labels)
            self.log("train/loss", loss)
            self.log("train/accuracy", self.accuracy, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = torch.optim.AdamW(self.parameters())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": WarmupCosine(optimizer, LENGTH), "interval": "step"},
        }


def lightning(steps: Steps, net: str, accelerator: str, barebones: bool) -> None:
    """Train with Lightning's Trainer; `barebones` logs nothing."""
    keep_freed_memory()
    options = {"barebones": True} if barebones else {
        "logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False,
    }  # fmt: skip
    trainer = Trainer(
        max_steps=LENGTH,
        accelerator=accelerator,
        devices=1,
        callbacks=[Counter(steps)],
        **options,  # type: ignore[arg-type]
    )
    trainer.fit(Plain(make_net(net), logs=not barebones), DataLoader(Batches(), batch_size=None))


class TwoMetrics(ImageClassifier):
    """A classifier that logs its accuracy on each batch, in addition to its loss."""

    def update_metrics(self, metrics: MetricCollection, outputs: Tensor, targets: Tensor) -> None:
        super().update_metrics(metrics, outputs, targets)
        if metrics is self.train_metrics:
            self.log("train/batch_accuracy", (outputs.argmax(1) == targets).float().mean())


def options_of_fit(net: str, accelerator: str) -> list[str]:
    """Return options with which `fit` computes the loss of the loops, on the same batches."""
    return [
        f"--data.class_path={Random.__module__}.Random", f"--data.batch_size={BATCH_SIZE}", "--data.image_size=28",
        "--data.augmentation.crop_padding=0", "--model.label_smoothing=0", f"--trainer.accelerator={accelerator}",
        "--trainer.devices=1", f"--trainer.log_every_n_steps={READ_EVERY}", "--max_epochs=640", *NETS[net],
    ]  # fmt: skip


def ours(steps: Steps, net: str, accelerator: str, folder: str, options: Sequence[str]) -> None:
    """Train with the command of this project, in a folder."""
    os.chdir(folder)
    os.environ["FORCE_COLOR"] = "1"  # A progress bar also without a terminal.
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  # for the life of the process
    fit([*options_of_fit(net, accelerator), *options], [Counter(steps)])
