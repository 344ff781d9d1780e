"""Benchmark of CIFAR-10 in a fixed time: the test accuracy of `cifar10_fast`, ResNet-18 and the default CNN.

python -m benchmarks.cifar10 --data-root DIR --minutes 10
python -m benchmarks.cifar10 --quick

Further options are those of `fit`, for all trainings. DIR contains torchvision's `cifar-10-batches-py/`, or
`train/CLASS/*.jpg` and `test/CLASS/*.jpg`; it may be a .tar.gz. On a CPU, `cifar10_fast` is `cifar10_fast_cpu`. Each
training is a `project.fit`. It first measures the seconds of a step and of a validation in a few steps. Then it trains
with as many steps as fit into the time with their validations, so that its schedule ends with the time. The test is not
part of the time. Prints the lines of benchmarks/lines.py and a table, with the peer ResNet-18.
"""

import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from benchmarks.lines import make_parser, report, rounds_of
from benchmarks.record import write_noise
from project.fit import main as fit

PEER = "resnet18"
USUAL = ["--data.batch_size=128", "--data.augmentation.crop_padding=4", "--data.augmentation.horizontal_flip=true"]
TRAININGS: dict[str, list[str]] = {
    "cifar10_fast": [f"--experiment=cifar10_fast{'' if torch.cuda.is_available() else '_cpu'}"],
    PEER: ["--experiment=cifar10_resnet18", *USUAL],
    "cnn": ["--model=cnn", *USUAL],
}
COMMON = ["--data.val_fraction=0.02", "--max_epochs=-1", "--trainer.enable_progress_bar=false"]
UNTRACKED = ["--trainer.logger=false", "--trainer.limit_test_batches=0"]
MEASURED_STEPS, QUICK_SECONDS = 6, 20.0
USED = 0.95
"""Share of the time that is planned; the rest is for steps that take longer than the measured ones."""


class Pace(Callback):
    """Measures the median seconds of a step, the seconds of a validation, and the accuracy on the test images."""

    def __init__(self) -> None:
        self.step_s: list[float] = []
        self.validation_s, self.steps_per_epoch, self.accuracy = 0.0, 1, float("nan")
        self._start = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._start, self.steps_per_epoch = perf_counter(), int(trainer.num_training_batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        self.step_s.append(perf_counter() - self._start)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation_s = perf_counter() - self._start

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.accuracy = float(trainer.callback_metrics["test/accuracy"])


def steps_in(seconds: float, step_s: float, validation_s: float, steps_per_epoch: int) -> int:
    """Return how many steps fit into a time, with a validation after each epoch and one at the end."""
    return max(1, int((USED * seconds - validation_s) / (step_s + validation_s / steps_per_epoch)))


@contextmanager
def image_folder(images: Path | None) -> Iterator[Path]:
    """Yield the folder of the images; without one, a folder of noise."""
    with TemporaryDirectory() as name:
        root = Path(name)
        if images is None:
            write_noise(root)
        elif images.is_dir():
            root = images.resolve()
        else:
            with tarfile.open(images) as archive:
                archive.extractall(root, filter="data")
        yield root


def data_options(root: Path) -> list[str]:
    """Return the options for CIFAR-10 in a folder."""
    if (root / "cifar-10-batches-py").is_dir():
        return ["--data=cifar10", f"--data.root={root}"]
    return ["--data=image_folder", f"--data.root={root}", "--data.image_size=32", "--data.cache=on"]


def measure(options: Sequence[str], seconds: float) -> float:
    """Train for a fixed time, and return the test accuracy."""
    pace = Pace()
    with TemporaryDirectory() as folder, chdir(folder):  # The training leaves no files.
        fit([*options, *UNTRACKED, f"--trainer.max_steps={MEASURED_STEPS}"], [pace])
    step_s = sum(pace.step_s[1:]) / (MEASURED_STEPS - 1)  # The first step allocates memory.
    steps = steps_in(seconds, step_s, pace.validation_s, pace.steps_per_epoch)
    end, timed = f"00:00:{seconds // 60:02.0f}:{seconds % 60:02.0f}", Pace()
    fit([*options, f"--trainer.max_steps={steps}", f"--trainer.max_time={end}"], [timed])
    print(f"{step_s:.3g} s per step, {len(timed.step_s)} of {steps} steps", file=sys.stderr)
    return timed.accuracy


def main(argv: Sequence[str]) -> None:
    """Run the trainings one after the other, and print the lines and the tables."""
    parser = make_parser(
        "benchmarks.cifar10", __doc__, 1, f"{QUICK_SECONDS:.0f} seconds for each, and noise without --data-root"
    )
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder or .tar.gz with CIFAR-10")
    parser.add_argument("--minutes", type=float, help="time of each training, less than 60 (10)")
    parser.add_argument(
        "--only", nargs="+", choices=TRAININGS, default=list(TRAININGS), help="trainings, in addition to the peer"
    )
    args, options = parser.parse_known_args(argv)
    seconds = 60 * args.minutes if args.minutes else QUICK_SECONDS if args.quick else 600.0
    if not args.data_root and not args.quick:
        parser.error("--data-root: got none; give a folder of CIFAR-10, or --quick for a trial with noise")
    short = [] if args.data_root else ["--data.batch_size=32", "--data.val_fraction=0.1"]
    names = [name for name in TRAININGS if name in args.only or name == PEER]
    with image_folder(args.data_root) as root:
        every = [*data_options(root), *COMMON, *short, *options]
        accuracies = [
            {name: measure([*TRAININGS[name], *every], seconds) for name in names} for _ in range(rounds_of(args))
        ]
    report(f"test accuracy after {seconds:.0f} s", accuracies, "share", PEER, more_is_better=True)


if __name__ == "__main__":
    main(sys.argv[1:])
