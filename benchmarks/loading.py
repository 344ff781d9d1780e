"""Images per second of loading, ours and its peers in turn, on files that the benchmark makes.

python -m benchmarks.loading --rounds 5

Everyone has a process of its own, which is stopped while the others have their turn: FFCV's threads, for one, go on
when its epoch is over, and would take a third of the speed of whoever comes next.

Rows: `JPEG`, files of 400x320 -> a random part resized to 224, flip, normalise; `cache`, the same from pixels that were
decoded before, of 256 a side; `small`, 32x32 -> crop with padding 4, flip, normalise; `training`, a CNN that trains on
them on the CPU for an epoch of 32 steps; `wait`, how many percent of its time it waits. Prints a JSON object for each
round of a row, and a table. The files are parts of scikit-learn's two photographs. DALI's CPU pipeline, SPDL, LitData
and FFCV take part where they are installed; see benchmarks/loading_peers.py.
"""

import argparse
import json
import logging
import multiprocessing
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import psutil
import torch
from lightning import Trainer
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.loading_peers import (
    BATCH,
    CACHED,
    JPEGS,
    MEAN,
    MIN_AREA,
    PACKAGES,
    SIZE,
    STD,
    WORKERS,
    Epoch,
    by_dataloader,
    installed,
    torchvision_folder,
)
from benchmarks.turns import Measure, in_turn
from project.classifier import ImageClassifier
from project.data import ImageDataModule, ImageFolder
from project.data.datamodule import Split
from project.loading import ImageArray
from project.loading.device import on_device
from project.loading.images import Batch, Fetched
from project.memory import keep_freed_memory
from project.models import CNN
from project.tracking.throughput import Throughput

ROWS = JPEG, CACHE, SMALL, TRAINING, WAITING = "JPEG", "cache", "small", "training", "wait"
SMALL_BATCH = 512
CROPS: dict[str, Any] = {
    "image_size": SIZE, "batch_size": BATCH, "random_resized_crop": MIN_AREA, "horizontal_flip": True,
    "num_workers": WORKERS,
}  # fmt: skip


def make_files(root: Path, count: int) -> None:
    """Write JPEGs of 400x320 pixels, quality 92: photographs with other framing."""
    random = np.random.default_rng(0)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    for split, images in (("train", count), ("val", 64)):
        for label in (0, 1):
            folder = root / split / str(label)
            folder.mkdir(parents=True)
            photograph = photographs[label]
            for index in range(images // 2):
                height = int(photograph.height * random.uniform(0.65, 1.0))
                width = int(height * 1.25)
                x, y = random.integers(photograph.width - width + 1), random.integers(photograph.height - height + 1)
                part = photograph.crop((int(x), int(y), int(x) + width, int(y) + height)).resize(
                    (400, 320), Image.Resampling.BICUBIC
                )
                part.save(folder / f"{index}.jpg", quality=92)


class Normalise:
    """To float32 with mean 0 and standard deviation 1, a few images at a time, into the same memory."""

    def __init__(self) -> None:
        self.out = self.scale = self.shift = torch.empty(0)

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) uint8; the result, in the same memory format, is valid until the next call."""
        if self.out.shape[1:] != images.shape[1:] or len(self.out) < len(images):
            self.out = torch.empty_like(images, dtype=torch.float32)
            mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
            # As much as lies together in memory, so that it fits into a core's cache and torch has its fast way.
            pattern = self.out[:1] if images.is_contiguous() else self.out[:1, :, :1]
            self.scale = torch.empty_like(pattern).copy_(1 / (255 * std))
            self.shift = torch.empty_like(pattern).copy_(-mean / std)
        some = max(1, 2**17 // images[0].numel())  # what a core's cache holds
        for part, target in zip(torch.split(images, some), torch.split(self.out, some), strict=False):
            floats = target[: len(part)].copy_(part)
            torch.addcmul(self.shift, floats, self.scale, out=floats)
        return self.out[: len(images)]


def ours(data: ImageDataModule) -> Epoch:
    """An epoch of the datamodule's train batches, normalised."""
    data.setup("fit")
    loader, normalise = data.train_dataloader(), Normalise()

    def epoch() -> int:
        loader.sampler.set_epoch(loader.sampler.epoch + 1)
        return sum(len(normalise(images)) for images, _ in loader)

    return epoch


class Small(ImageDataModule):
    """Noise of CIFAR-10's size."""

    name = "small"
    native_size, native_channels = 32, 3
    native_mean, native_std = MEAN, STD
    class_names = tuple("0123456789")
    count = 50_000

    def load(self, split: Split) -> ImageArray | None:
        """The images of train or val."""
        if split == "test":
            return None
        count = self.count if split == "train" else 256
        images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return ImageArray(images, torch.arange(count) % 10)


class SmallByImage(Dataset[tuple[Tensor, int]]):
    """The same as torchvision's CIFAR10 hands it out: a Pillow image at a time."""

    change = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomCrop(32, 4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )

    def __init__(self, count: int) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.change(Image.fromarray(self.images[index])), index % 10


def images_per_second(epoch: Epoch) -> float:
    """Speed of one epoch."""
    start = perf_counter()
    return epoch() / (perf_counter() - start)


class Waiting:
    """A loader whose waits are measured, for what Throughput asks of it."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches, self.wait_s = batches, 0.0

    def __iter__(self) -> Iterator[Any]:
        """The batches."""
        start = perf_counter()
        for batch in self.batches:
            self.wait_s += perf_counter() - start
            yield batch
            start = perf_counter()


def trained(*, peer: bool) -> Throughput:
    """Train a CNN at 32x32 for an epoch on the CPU."""
    data = Small(batch_size=BATCH, crop_padding=4, horizontal_flip=True)
    data.count = 4096
    data.setup("fit")
    throughput = Throughput(10)
    model = ImageClassifier(partial(CNN, widths=(32, 32, 64, 64)), 10, 3, 32, MEAN, STD)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[throughput], use_distributed_sampler=False,
    )  # fmt: skip
    # Processes that persist would be joined by the garbage collector, for 10 s in the middle of another row.
    by_image = DataLoader(SmallByImage(data.count), BATCH, num_workers=WORKERS)
    trainer.fit(model, Waiting(by_image) if peer else data.train_dataloader())
    return throughput


def overlap(steps: int = 50) -> dict[str, float]:
    """Milliseconds of a step on a GPU: of the model alone, of the copy alone, and of both when the copy runs ahead."""
    device = torch.device("cuda")
    net = torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(20))).to(device)
    source = torch.randint(256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8).pin_memory()
    fetched = Fetched(source, torch.zeros(BATCH, dtype=torch.int64).pin_memory(), None)
    resident = source.to(device)

    def milliseconds(batches: Iterable[Any], work: Callable[[Tensor], object]) -> float:
        start, end = torch.cuda.Event(True), torch.cuda.Event(True)  # type: ignore[no-untyped-call]
        start.record()
        for images, *_ in batches:
            work(images)
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / steps

    def model(images: Tensor) -> Tensor:
        logits: Tensor = net(images.float())
        return logits

    def copied() -> Iterator[Batch]:
        return on_device(iter([fetched] * steps), lambda batch: (batch.images, batch.labels), device)

    for _ in range(2):  # the first time warms up
        measured = {
            "model": milliseconds([(resident,)] * steps, model),
            "copy": milliseconds(copied(), lambda _: None),
            "both": milliseconds(copied(), model),
        }
    return measured


def memory_mib() -> float:
    """Memory that this process and its children do not share with others."""
    process = psutil.Process()
    return sum(p.memory_full_info().uss for p in (process, *process.children(recursive=True))) / 2**20


def growth(make: Callable[[], Epoch], epochs: int = 20) -> dict[str, float]:
    """Memory that loading takes after the first and after the last of the epochs, in MiB."""
    begin()
    before, after = memory_mib(), []
    epoch = make()
    for _ in range(epochs):
        epoch()
        after.append(memory_mib() - before)
    return {"first": round(after[0], 1), "last": round(after[-1], 1)}


def folder(root: Path, cache: Literal["on", "off"]) -> Epoch:
    """Ours from the folder: its files, or their pixels in a cache."""
    return ours(ImageFolder(str(root), cache=cache, **CROPS))


def begin() -> None:
    """What `project.fit` does first in a process, and silence."""
    keep_freed_memory()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


def speed(make: Callable[[], Epoch], threads: int) -> Measure:
    """Images per second, where torch has so many threads in the process that takes the batches."""
    begin()
    torch.set_num_threads(threads)
    return partial(images_per_second, make())


def training(*, peer: bool) -> Measure:
    """Images per second of a whole training."""
    begin()
    return lambda: trained(peer=peer).images_per_second


def waiting(*, peer: bool) -> Measure:
    """The share of its time that a training waits, in percent."""
    begin()
    return lambda: 100 * trained(peer=peer).wait_fraction


def rows(root: Path) -> dict[str, dict[str, Callable[[], Measure]]]:
    """Who takes part in which row."""
    decoding = {"ours": partial(folder, root, "off")} | {name: partial(make, root) for name, make in JPEGS.items()}
    decoded = {"ours": partial(folder, root, "on")} | {name: partial(make, root) for name, make in CACHED.items()}
    small = {
        "ours": partial(ours, Small(batch_size=SMALL_BATCH, crop_padding=4, horizontal_flip=True)),
        "DataLoader": partial(by_dataloader, SmallByImage(10_000), SMALL_BATCH),
    }
    return {
        # The cores belong to those that decode and resize.
        JPEG: {name: partial(speed, make, 1) for name, make in decoding.items() if installed(name)},
        CACHE: {name: partial(speed, make, 1) for name, make in decoded.items() if installed(name)},
        SMALL: {name: partial(speed, make, WORKERS) for name, make in small.items()},
        TRAINING: {"ours": partial(training, peer=False), "DataLoader": partial(training, peer=True)},
        WAITING: {"ours": partial(waiting, peer=False), "DataLoader": partial(waiting, peer=True)},
    }


def spread(values: Iterable[float]) -> str:
    """Least, median and most."""
    ordered = sorted(values)
    digits = 0 if ordered[-1] >= 100 else 2
    return " / ".join(f"{value:,.{digits}f}" for value in (ordered[0], statistics.median(ordered), ordered[-1]))


def main() -> None:
    """Make the files, run the rounds, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--only", nargs="+", metavar="ROW", help=f"some of {', '.join(ROWS)}")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp())
    os.chdir(root)
    make_files(root, options.images)
    if missing := [name for name in PACKAGES if not installed(name)]:
        print(f"not installed, left out: {', '.join(missing)}")
    table = Table("work", "who", "images a second: least / median / most", "ours is faster by", title="loading")
    for row, makes in rows(root).items():
        if options.only and row not in options.only:
            continue
        results = in_turn(row, makes, options.rounds)
        for name in makes:
            ratios = "" if name == "ours" or row == WAITING else spread(r["ours"] / r[name] for r in results)
            table.add_row(row, name, spread(result[name] for result in results), ratios)
    Console().print(table)
    if torch.cuda.is_available():
        print(json.dumps({"ms a step on the GPU": overlap()}))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as alone:
        memory = {
            name: alone.submit(growth, make).result()
            for name, make in {
                "ours, 256 px cache": partial(folder, root, "on"),
                "ours, JPEG": partial(folder, root, "off"),
                "DataLoader, JPEG": partial(torchvision_folder, root),
            }.items()
        }
    print(json.dumps({"memory in MiB after the first and the last of 20 epochs": memory}))


if __name__ == "__main__":
    main()
