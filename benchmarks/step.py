"""Benchmark of a training step: a hand-written loop, Lightning's Trainer alone, and `project.fit` with all its parts.

python -m benchmarks.step
python -m benchmarks.step --net default resnet18 --rounds 5 --accelerator gpu

All train the same net on the same batches of 64 images with AdamW, the same schedule, cross-entropy and accuracy, and
read the loss on every tenth step. `fit` has its logger, its progress bar and its checkpoints; `fit, no NAME` lacks one
part. In each round, new processes take turns of a third of a second. Prints one JSON object per round and a table: the
milliseconds per step, and the speed relative to the hand-written loop.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics.classification import MulticlassAccuracy

from benchmarks.slices import Candidate, Counter, Steps, ms_per_step, spread
from project.data import LabelledImages
from project.engine.loading import ImageArray, Split
from project.engine.runtime.allocator import keep_freed_memory
from project.engine.schedule import WarmupCosine
from project.fit import main as fit
from project.models import CNN

BATCH_SIZE, CLASSES, READ_EVERY = 64, 10, 10
SLICES_PER_ROUND, WARM_UP_STEPS = 15, 100
LENGTH = 10**6  # of the schedule, in steps

NETS: dict[str, list[str]] = {
    "small": ["--model.net.widths=[8,8,16,16]", "--model.net.hidden=64"],
    "default": [],
    "resnet18": ["--model=resnet18"],
}
PARTS: dict[str, list[str]] = {
    "logger": ["--trainer.logger=false"],
    "progress bar": ["--trainer.enable_progress_bar=false"],
    "checkpoints": ["--trainer.enable_checkpointing=false"],
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
        from torchvision.models import resnet18

        net: nn.Module = resnet18(num_classes=CLASSES)
        return net
    small = {"widths": [8, 8, 16, 16], "hidden": 64} if name == "small" else {}
    return CNN(CLASSES, 1, 28, **small)  # type: ignore[arg-type]


def hand_written(steps: Steps, net: str, device: str) -> None:
    """Train with a loop of torch's own calls."""
    keep_freed_memory()
    model = make_net(net).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = WarmupCosine(optimizer, LENGTH)
    correct, pin = torch.zeros((), device=device, dtype=torch.long), device != "cpu"
    for images, labels in Batches():
        if pin:
            images, labels = images.pin_memory(), labels.pin_memory()
        images, labels = images.to(device, non_blocking=pin), labels.to(device, non_blocking=pin)
        logits = model((images.float() / 255 - 0.5) / 0.25)
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


def ours(steps: Steps, net: str, accelerator: str, options: list[str]) -> None:
    """Train with the command of this project."""
    os.chdir(tempfile.mkdtemp())
    os.environ["FORCE_COLOR"] = "1"  # A progress bar also without a terminal.
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  # for the life of the process
    fit(
        ["--data.class_path=benchmarks.step.Random", f"--data.batch_size={BATCH_SIZE}", "--data.image_size=28",
         "--data.augmentation.crop_padding=0", f"--trainer.accelerator={accelerator}", "--trainer.devices=1",
         f"--trainer.log_every_n_steps={READ_EVERY}", "--max_epochs=640", *NETS[net], *options],
        [Counter(steps)],
    )  # fmt: skip


def candidates(net: str, accelerator: str, *, parts: bool) -> dict[str, Callable[[], Candidate]]:
    """Return functions that start the trainings, by their name in the table."""
    device = "cpu" if accelerator == "cpu" else "cuda"

    def start(train: Callable[..., None], *arguments: object) -> Callable[[], Candidate]:
        return lambda: Candidate(train, net, *arguments, warm_up=WARM_UP_STEPS)

    made = {
        "hand-written": start(hand_written, device),
        "Lightning": start(lightning, accelerator, False),
        "Lightning barebones": start(lightning, accelerator, True),
        "fit": start(ours, accelerator, []),
    }
    if parts:
        made |= {f"fit, no {name}": start(ours, accelerator, options) for name, options in PARTS.items()}
        made["fit, none of these"] = start(ours, accelerator, [option for one in PARTS.values() for option in one])
    return made


def one_round(makes: dict[str, Callable[[], Candidate]]) -> dict[str, float]:
    """Start all trainings, and measure the milliseconds per step of each."""
    started: dict[str, Candidate] = {}
    try:
        for name, make in makes.items():
            started[name] = make()
        return ms_per_step(started, SLICES_PER_ROUND)
    finally:
        for candidate in started.values():
            candidate.kill()


def main() -> None:
    """Run the rounds for each net, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", nargs="+", choices=NETS, default=["small", "default"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--parts", action="store_true", help="measure `fit` also without each of its parts")
    args = parser.parse_args()
    for net in args.net:
        makes = candidates(net, args.accelerator, parts=args.parts)
        results = []
        for _ in range(args.rounds):
            results.append(one_round(makes))
            print(json.dumps({"net": net} | {name: round(value, 3) for name, value in results[-1].items()}), flush=True)
        table = Table(
            "training", "ms per step", "speed: median", "minimum", "maximum", title=f"{net}, {args.accelerator}"
        )
        for name in makes:
            middle = statistics.median(result[name] for result in results)
            table.add_row(name, f"{middle:.2f}", *spread([result["hand-written"] / result[name] for result in results]))
        Console().print(table)


if __name__ == "__main__":
    main()
