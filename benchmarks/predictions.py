"""Benchmark of `project.predict`: images per second, compared with the validation of its run and a loop.

python -m benchmarks.predictions
python -m benchmarks.predictions --quick

The files are JPEGs of 0.3 to 12 megapixels, made from scikit-learn's two photographs. The rows alternate. The loop
decodes with Pillow, crops and resizes with torchvision, one image after the other, as most examples do. Prints the
lines of benchmarks/lines.py and a table.
"""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn
from torchvision.transforms import v2

from benchmarks.lines import make_parser, report, rounds_of
from project.engine.inference.evaluation_job import open_evaluation
from project.engine.inference.prediction_job import open_prediction
from project.fit import main as fit

_SIZES = ((640, 480), (1024, 768), (1600, 1200), (3000, 2000), (4000, 3000))
_SIDE, _BATCH = 224, 16
PEER = "torchvision loop"
_MODEL = ("--model=mobilenet_v3_small", f"--data.batch_size={_BATCH}", f"--data.image_size={_SIDE}")
_FIT = ("--data=image_folder", "--data.cache=off", "--max_epochs=1", "--trainer.limit_train_batches=1", *_MODEL)


def make_files(root: Path, count: int) -> None:
    """Write a photo of each size in turn, for train and test of two classes."""
    photos = [Image.fromarray(image) for image in load_sample_images().images]
    for split, files in (("train", _BATCH), ("test", count // 2)):
        for label, photo in zip(("flower", "temple"), photos, strict=True):
            (root / split / label).mkdir(parents=True)
            for number in range(files):
                size = _SIZES[number % len(_SIZES)]
                photo.resize(size).save(root / split / label / f"{number}.jpg", quality=88)


def validation() -> float:
    """Return the seconds of an evaluation's loop over test."""
    with open_evaluation(["latest"]) as job:
        start = perf_counter()
        job.trainer.test(job.model, job.cli.datamodule, ckpt_path=job.run.checkpoint, verbose=False)
        return perf_counter() - start


def prediction() -> float:
    """Return the seconds of a prediction of the same files."""
    with open_prediction(["latest", "data/test", "--output=predictions.csv"]) as job:
        start = perf_counter()
        job.run()
        return perf_counter() - start


def torchvision_loop() -> float:
    """Return the seconds of a plain loop with the same net."""
    from torchvision.models import mobilenet_v3_small

    model: nn.Module = mobilenet_v3_small(num_classes=2).eval()
    files = sorted(Path("data/test").glob("*/*.jpg"))
    start = perf_counter()
    with torch.inference_mode():
        for first in range(0, len(files), _BATCH):
            images = []
            for file in files[first : first + _BATCH]:
                image = v2.functional.pil_to_tensor(Image.open(file).convert("RGB"))
                square = v2.functional.center_crop(image, [min(image.shape[1:])] * 2)
                images.append(v2.functional.resize(square, [_SIDE, _SIDE], antialias=True))
            model(torch.stack(images) / 255).softmax(1)
    return perf_counter() - start


def main(argv: Sequence[str]) -> None:
    """Measure all rows, and print the lines and the table."""
    parser = make_parser("benchmarks.predictions", __doc__, 3, "one round of 20 images")
    parser.add_argument("--images", type=int, default=200)
    args = parser.parse_args(argv)
    count = 20 if args.quick else args.images
    rows: dict[str, Callable[[], float]] = {
        "project.predict": prediction, "validation": validation, PEER: torchvision_loop,
    }  # fmt: skip
    with TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        make_files(Path("data"), count)
        with contextlib.redirect_stdout(io.StringIO()):
            fit(_FIT)
            results = [{name: count / measure() for name, measure in rows.items()} for _ in range(rounds_of(args))]
    report("predictions", results, "images/s", PEER, more_is_better=True)


if __name__ == "__main__":
    main(sys.argv[1:])
