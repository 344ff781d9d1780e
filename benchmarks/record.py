"""Benchmark of CIFAR-10 at record pace: `--experiment cifar10_fast`, compared with a published record.

python -m benchmarks.record --images DIR --record CLONE
python -m benchmarks.record --quick

DIR, which may also be a .tar.gz of it, contains CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg. CLONE is a clone of
github.com/KellerJordan/cifar10-airbench, whose airbench94_muon.py needs a GPU and a C compiler for `torch.compile`. It
reads images from cifar10/train.pt and cifar10/test.pt in the current folder; this benchmark writes them, and both train
on them. Without CLONE, only ours is measured. On a GPU, ours is also measured with `--model.compile reduce-overhead`.

Each trains once before it is measured, to compile the net, which takes the script minutes; ours is compiled meanwhile.
The time is that of the training and of the test, without validation between the epochs and without the figures of the
report. Both mirror and shift the test images. Prints the lines of benchmarks/lines.py and a table; a time means nothing
without its accuracy.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from threading import Timer
from time import perf_counter

import numpy as np
import simplejpeg
import torch
from lightning import Callback, LightningModule, Trainer
from PIL import Image

from benchmarks.lines import make_parser, report, rounds_of, wait_for_end
from project.data import CIFAR10, LabelledImages
from project.engine.loading import ImageArray, Split
from project.fit import main as fit

SCRIPT = "airbench94_muon.py"
OURS, COMPILED, RECORD = "cifar10_fast", "cifar10_fast, compiled", SCRIPT
MODE = "--model.compile=reduce-overhead"
TENSORS = Path("cifar10")
_RUN_RECORD = """if True:
    import sys

    sys.argv = [f"{sys.argv[1]}/airbench94_muon.py", *sys.argv[2:]]
    import airbench94_muon as record

    model = record.CifarNet().cuda().to(memory_format=record.torch.channels_last)
    model.compile(mode="max-autotune")
    record.main("warmup", model)
    for run, _ in enumerate(sys.stdin):
        record.main(run, model)
"""
_LAST_ROW = re.compile(r"\|\s+eval\s+\|.*\|\s+(\d\.\d+)\s+\|\s+(\d+\.\d+)\s+\|")

Result = dict[str, float]


class StepTimer(Callback):
    """Measures the seconds of training and of the test, without the validation between epochs."""

    def __init__(self) -> None:
        self.seconds = self.accuracy = self._start = 0.0

    def _resume(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._start = perf_counter()

    def _pause(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += perf_counter() - self._start

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._resume()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._resume()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._resume()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause()  # before the figures of the report

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.accuracy = float(trainer.callback_metrics["test/accuracy"])


class RecordImages(LabelledImages):
    """The images of the record's script, from its files in the current folder."""

    name = "cifar10"
    native_size, native_channels = 32, 3
    native_mean, native_std = CIFAR10.native_mean, CIFAR10.native_std
    class_names = CIFAR10.class_names

    def load(self, split: Split) -> ImageArray | None:
        if split == "val":
            return None
        stored = torch.load(TENSORS / f"{split}.pt")
        return ImageArray(stored["images"].permute(0, 3, 1, 2).contiguous(), stored["labels"])


def ours(options: Sequence[str], seed: int) -> Result:
    """Train once with the command of this project, and return its seconds and its accuracy."""
    timer = StepTimer()
    with contextlib.redirect_stdout(io.StringIO()):
        fit(["--experiment=cifar10_fast", f"--data.class_path={RecordImages.__module__}.{RecordImages.__qualname__}",
             f"--seed_everything={seed}", "--data.image_size=32", "--trainer.enable_progress_bar=false", *options],
            [timer])  # fmt: skip
    return {"s": timer.seconds, "accuracy": timer.accuracy}


class Record:
    """The record's script in a process, which compiles its net, and then trains whenever it is asked to.

    Args:
        clone: Folder with the script.
        folder: Folder with `cifar10/train.pt` and `cifar10/test.pt`.
        limit_s: Seconds in which it compiles and trains once, before it is killed.
    """

    def __init__(self, clone: Path, folder: Path, limit_s: float) -> None:
        paths = os.pathsep.join(filter(None, [str(clone), os.environ.get("PYTHONPATH")]))
        self._output = ""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _RUN_RECORD, str(clone)], cwd=folder, text=True,
            env=os.environ | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._timer = Timer(limit_s, self._process.kill)
        self._timer.start()

    def wait_until_compiled(self) -> None:
        """Wait for the end of its first training.

        Raises:
            RuntimeError: The script failed, or needed more time; the message is all that it printed.
        """
        try:
            self._read()
        finally:
            self._timer.cancel()

    def train(self, _: int = 0) -> Result:
        """Train once, and return its seconds and its accuracy; the script takes no seed."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Result:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._output += line
            if row := _LAST_ROW.search(line):
                return {"s": float(row[2]), "accuracy": float(row[1])}
        raise RuntimeError(f"{SCRIPT} ended with exit code {self._process.wait()}:\n{self._output}")

    def close(self) -> None:
        """End the process."""
        self._timer.cancel()
        self._process.kill()
        self._process.communicate()


def write_tensors(images: Path) -> None:
    """Write the images of a folder or of a .tar.gz as the record's script stores them."""
    if images.is_dir():
        files = [(path, path.read_bytes()) for path in images.glob("t*/*/*.jpg")]
    else:
        with tarfile.open(images) as archive:  # Extracting so many small files takes a minute on some machines.
            members = [(Path(member.name), archive.extractfile(member)) for member in archive]
            files = [(path, member.read()) for path, member in members if member]
    Random(0).shuffle(files)  # as in CIFAR-10; the script whitens by the first images
    classes = sorted({path.parent.name for path, _ in files})
    TENSORS.mkdir()
    for split in ("train", "test"):
        chosen = [(path.parent.name, content) for path, content in files if path.parts[-3] == split]
        arrays = [simplejpeg.decode_jpeg(content) for _, content in chosen]
        labels = torch.tensor([classes.index(name) for name, _ in chosen])
        stored = {"images": torch.from_numpy(np.stack(arrays)), "labels": labels, "classes": classes}
        torch.save(stored, TENSORS / f"{split}.pt")


def write_noise(root: Path) -> None:
    """Write a few images of noise in ten classes."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(10):
            (root / split / str(label)).mkdir(parents=True)
            for number in range(12):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / str(label) / f"{number}.jpg")


def main(argv: Sequence[str]) -> None:
    """Train with both, and print the lines and the tables."""
    parser = make_parser("benchmarks.record", __doc__, 5, "two steps on noise, unless there are --images")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder or .tar.gz with CIFAR-10 as JPEGs")
    parser.add_argument("--record", type=Path, metavar="CLONE", help=f"folder with {SCRIPT}")
    parser.add_argument("--compile_s", type=float, default=600, help="time limit of the script's first training (600)")
    parser.add_argument("--after", type=int, metavar="PID", help="measure after the end of this process")
    parser.add_argument("options", nargs="*", help="more options of project.fit, after --")
    args = parser.parse_args(argv)
    if not args.images and not args.quick:
        parser.error("--images: got none; give a folder of CIFAR-10, or --quick for a trial with noise")
    reason = (
        "it needs a GPU" if not torch.cuda.is_available() else "it needs --record" if not args.record
        else "it needs --images" if not args.images else ""
    )  # fmt: skip
    if reason:
        print(f"{RECORD}: not measured, because {reason}")
    precision = ["--precision=bf16-mixed"] if torch.cuda.is_available() else []
    short = (
        []
        if args.images
        else ["--max_epochs=2", "--trainer.limit_train_batches=2", "--data.batch_size=32", "--data.val_fraction=0.1"]
    )
    ways = {OURS: [*precision, *short, *args.options]}
    if torch.cuda.is_available():
        ways[COMPILED] = [*ways[OURS], MODE]
    clone, images = args.record and args.record.resolve(), args.images and args.images.resolve()
    with TemporaryDirectory() as name, contextlib.chdir(name), contextlib.ExitStack() as stack:
        if not images:
            write_noise(images := Path("noise"))
        write_tensors(images)
        candidates: dict[str, Callable[[int], Result]] = {way: partial(ours, options) for way, options in ways.items()}
        record = None if reason else stack.enter_context(
            contextlib.closing(Record(clone, Path(name), args.compile_s))
        )  # fmt: skip
        for train in candidates.values():
            train(0)
        if record:
            try:
                record.wait_until_compiled()
                candidates[RECORD] = record.train
            except RuntimeError as error:  # Ours is measured anyway.
                print(f"{RECORD}: not measured, because {error}")
        if args.after is not None:
            wait_for_end(args.after)
        results = [{way: train(seed) for way, train in candidates.items()} for seed in range(rounds_of(args))]
    for unit in ("s", "accuracy"):
        by_name = [{candidate: values[unit] for candidate, values in one.items()} for one in results]
        peer = RECORD if RECORD in candidates else OURS
        report(f"CIFAR-10, {unit}", by_name, unit, peer, more_is_better=unit == "accuracy")


if __name__ == "__main__":
    main(sys.argv[1:])
