"""Benchmark of loading: images per second of ours and of other libraries, on files that the benchmark makes.

python -m benchmarks.loading
python -m benchmarks.loading --quick

Each library has its own process, which is stopped while another one is measured. For example, FFCV's threads continue
after its epoch, and would slow down the next library by a third.

Prints the lines of benchmarks/lines.py and a table for each row. The rows:

- `JPEG`: files of 400x320 -> random crop resized to 224, flip, normalise. "decoding only" is the upper bound for any
  loader with this decoder
- `cache`: the same, from images that were decoded before and have 256 pixels a side
- `small`: images of 32x32 -> crop with padding 4, flip, normalise
- `training`: a CNN trained on the small images on the CPU, for an epoch of 32 steps
- `wait`: the percentage of its time that this training waits for batches
- `memory`: memory that loading holds after 20 epochs
- `overlap`: a step on a GPU: its copy, its compute, and both at the same time

The files are parts of scikit-learn's two photographs. DALI's CPU pipeline, SPDL, LitData and FFCV are measured if they
are installed; see benchmarks/loading/peers.py.
"""

import contextlib
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images

from benchmarks.alternating import Measure, measure_alternately
from benchmarks.lines import LINE_WIDTH, make_parser, print_line, ratios, report, rounds_of, spread
from benchmarks.loading.measures import speed, training, waiting
from benchmarks.loading.memory import memory_growth
from benchmarks.loading.ours import datamodule_epoch, image_folder_epoch
from benchmarks.loading.overlap import measure_overlap
from benchmarks.loading.peers import (
    CACHED,
    JPEGS,
    PACKAGES,
    WORKERS,
    dataloader_epoch,
    installed,
    torchvision_folder,
)
from benchmarks.loading.small import SMALL_AUGMENTATION, SmallImages, SmallPillowImages

ROWS = JPEG, CACHE, SMALL, TRAINING, WAITING, MEMORY, OVERLAP = (
    "JPEG", "cache", "small", "training", "wait", "memory", "overlap",
)  # fmt: skip
QUICK = (JPEG,)
SMALL_BATCH = 512


def make_files(root: Path, count: int) -> None:
    """Write JPEGs of 400x320 pixels with quality 92: random crops of the photographs."""
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


def rows(root: Path) -> dict[str, dict[str, Callable[[], Measure]]]:
    """Return the candidates of each row, each with the function that prepares its measurement."""
    decoding = {"ours": partial(image_folder_epoch, root, "off")} | {
        name: partial(make, root) for name, make in JPEGS.items()
    }
    decoded = {"ours": partial(image_folder_epoch, root, "on")} | {
        name: partial(make, root) for name, make in CACHED.items()
    }
    small = {
        "ours": partial(datamodule_epoch, SmallImages(batch_size=SMALL_BATCH, augmentation=SMALL_AUGMENTATION)),
        "DataLoader": partial(dataloader_epoch, SmallPillowImages(10_000), SMALL_BATCH),
    }
    return {
        # One thread of torch leaves the cores to the threads that decode and resize.
        JPEG: {name: partial(speed, make, 1) for name, make in decoding.items() if installed(name)},
        CACHE: {name: partial(speed, make, 1) for name, make in decoded.items() if installed(name)},
        SMALL: {name: partial(speed, make, WORKERS) for name, make in small.items()},
        TRAINING: {"ours": partial(training, peer=False), "DataLoader": partial(training, peer=True)},
        WAITING: {"ours": partial(waiting, peer=False), "DataLoader": partial(waiting, peer=True)},
    }


def compare(root: Path, chosen: Iterable[str], rounds: int) -> None:
    """Measure the chosen rows, and print their lines and tables."""
    candidates = rows(root)
    for row in chosen:
        if row in candidates:
            unit = "%" if row == WAITING else "images/s"
            report_ours(row, measure_alternately(candidates[row], rounds), unit, more_is_better=row != WAITING)
        elif row == MEMORY:
            report(row, [memory(root)], "MiB", "DataLoader, JPEG, last epoch")
        elif torch.cuda.is_available():
            report(row, [measure_overlap() for _ in range(rounds)], "ms", "copy, then compute")
        else:
            print(f"{row}: not measured, because it needs a GPU")


def report_ours(row: str, rounds: Sequence[Mapping[str, float]], unit: str, *, more_is_better: bool) -> None:
    """Print the lines and the table of a row: ours beside each of its peers."""
    table = Table("library", unit, "ours, times as good", title=row)
    ours = [one["ours"] for one in rounds]
    for name in rounds[0]:
        values = [one[name] for one in rounds]
        print_line(f"{row}: {name}", values, unit)
        better = ""
        if name != "ours":
            print_line(
                f"{row}: ours beside {name}", ours, unit, f"{row}: {name}", values, more_is_better=more_is_better
            )
            better = spread(ratios(ours, values, more_is_better=more_is_better))
        table.add_row(name, spread(values), better)
    Console(width=LINE_WIDTH).print(table)


def memory(root: Path) -> dict[str, float]:
    """Measure the MiB that loading holds after the first and the last of 20 epochs, each source in its own process."""
    makes = {
        "ours, 256 px cache": partial(image_folder_epoch, root, "on"),
        "ours, JPEG": partial(image_folder_epoch, root, "off"),
        "DataLoader, JPEG": partial(torchvision_folder, root),
    }
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as alone:
        measured = {name: alone.submit(memory_growth, make).result() for name, make in makes.items()}
    return {f"{name}, {moment} epoch": mib for name, growth in measured.items() for moment, mib in growth.items()}


def main(argv: Sequence[str]) -> None:
    """Make the files, and measure the chosen rows."""
    parser = make_parser("benchmarks.loading", __doc__, 5, "one round of 256 JPEGs")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--only", nargs="+", metavar="ROW", choices=ROWS, help=f"some of {', '.join(ROWS)}")
    args = parser.parse_args(argv)
    with TemporaryDirectory() as name, contextlib.chdir(name):
        root = Path(name)
        make_files(root, 256 if args.quick else args.images)
        if missing := [name for name in PACKAGES if not installed(name)]:
            print(f"not installed, therefore not measured: {', '.join(missing)}")
        compare(root, args.only or (QUICK if args.quick else ROWS), rounds_of(args))


if __name__ == "__main__":
    main(sys.argv[1:])
