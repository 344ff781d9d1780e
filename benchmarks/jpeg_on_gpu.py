"""Benchmark of decoding JPEGs for a GPU: with nvJPEG on the GPU, or with our threads on the CPU and a copy.

python -m benchmarks.jpeg_on_gpu
python -m benchmarks.jpeg_on_gpu --images DIR      # also the JPEGs in a folder and its subfolders, such as CIFAR-10
python -m benchmarks.jpeg_on_gpu --quick

Both read the same files of one size, cut the square in the middle, and resize it to 224 pixels (files of 32 pixels keep
their size). A batch is uint8 and on the GPU. Rounds alternate between both. Prints the lines of benchmarks/lines.py and
tables of the images per second, of the processor's time for each image, and of the GPU's time for each batch: the copy
or the decoding, by events. Without a GPU, only our decoding is measured.

torchvision 0.29 has deprecated its decoder on GPUs; its successor is the package torchcodec.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.lines import make_parser, report, rounds_of
from project.engine.loading import Crop, Workers
from project.engine.loading.image_files import ImageFiles
from project.engine.loading.images import Request
from project.engine.loading.prefetch_to_device import on_device

SIZES = ((32, 32), (640, 480), (1024, 768), (1600, 1200))
SIDE, BATCH, SMALL_BATCH = 224, 64, 512
CPU, GPU = "CPU threads, then copy", "nvJPEG"

Batches = Callable[[], Iterator[Tensor]]
"""Yields batches (N, 3, H, W), uint8, on the device."""


def write_files(folder: Path, width: int, height: int, count: int) -> list[Path]:
    """Write JPEGs of this size: scikit-learn's two photographs in turn."""
    folder.mkdir(parents=True)
    photographs = [Image.fromarray(image).resize((width, height)) for image in load_sample_images().images]
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        photographs[number % 2].save(path, quality=90)
    return paths


def batches_of_cpu(paths: Sequence[Path], side: int, batch: int, device: torch.device) -> Batches:
    """Return our way: threads decode and resize, and a stream of its own copies the batch."""
    sizes = torch.tensor([Image.open(path).size[::-1] for path in paths])
    files = ImageFiles(list(paths), torch.zeros(len(paths), dtype=torch.int64), sizes)
    workers = Workers(pin_memory=device.type == "cuda")

    def batches() -> Iterator[Tensor]:
        requests = (Request(indices, None) for indices in torch.split(torch.arange(len(paths)), batch))
        fetched = files.stream(requests, workers, Crop(side))
        for images, _ in on_device(fetched, lambda one: (one.images, one.targets), device):
            yield images

    return batches


def batches_of_gpu(paths: Sequence[Path], side: int, batch: int, device: torch.device) -> Batches:
    """Return nvJPEG's way: it decodes a batch of files, which may differ in size, and each image is resized there."""

    def square(image: Tensor) -> Tensor:
        height, width = image.shape[1:]
        edge = min(height, width)
        top, left = (height - edge) // 2, (width - edge) // 2
        part = image[None, :, top : top + edge, left : left + edge]
        if edge == side:
            return part
        resized = F.interpolate(part.float(), (side, side), mode="bilinear", antialias=True)
        return resized.round_().clamp_(0, 255).byte()

    def batches() -> Iterator[Tensor]:
        rest = iter(paths)
        while chosen := list(islice(rest, batch)):
            files = [torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8) for path in chosen]
            decoded = decode_jpeg(files, ImageReadMode.RGB, device=device)
            yield torch.cat([square(image) for image in decoded])

    return batches


def measure(batches: Batches, count: int) -> dict[str, float]:
    """Measure images per second, and milliseconds of the processor for each image."""
    start, used = perf_counter(), process_time()
    for images in batches():
        last = images
    if last.is_cuda:
        torch.cuda.synchronize()
    return {
        "images/s": count / (perf_counter() - start),
        "ms of the processor for each image": 1000 * (process_time() - used) / count,
    }


def gpu_ms(work: Callable[[], object]) -> float:
    """Measure the milliseconds of work on the GPU by events, after one that is not counted."""
    work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def compare(title: str, paths: Sequence[Path], side: int, batch: int, rounds: int) -> None:
    """Measure both ways in alternating rounds, and print their lines and tables."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ways = {CPU: batches_of_cpu(paths, side, batch, device)}
    if device.type == "cuda":
        ways[GPU] = batches_of_gpu(paths, side, batch, device)
    for batches in ways.values():
        measure(batches, len(paths))  # The first pass warms up.
    results = [{name: measure(batches, len(paths)) for name, batches in ways.items()} for _ in range(rounds)]
    for unit in results[0][CPU]:
        one_unit = [{name: values[unit] for name, values in one.items()} for one in results]
        report(f"{title}, {unit}", one_unit, unit.partition(" ")[0], CPU, more_is_better=unit == "images/s")
    if device.type == "cuda":
        pinned = torch.zeros(batch, 3, side, side, dtype=torch.uint8).pin_memory()
        decode = batches_of_gpu(paths[:batch], side, batch, device)
        works = {CPU: lambda: pinned.to(device, non_blocking=True), GPU: lambda: list(decode())}
        on_gpu = [{name: gpu_ms(work) for name, work in works.items()} for _ in range(rounds)]
        report(f"{title}, GPU's time for a batch of {batch}", on_gpu, "ms", CPU)


def main(argv: Sequence[str]) -> None:
    """Write the files of each size, and compare both ways."""
    parser = make_parser("benchmarks.jpeg_on_gpu", __doc__, 5, "one round of few files of two sizes")
    parser.add_argument("--images", type=Path, metavar="DIR", help="also measure the JPEGs of this folder")
    parser.add_argument("--count", type=int, default=1024, help="number of files of each size (1024)")
    args = parser.parse_args(argv)
    sizes, count = (SIZES[:2], 128) if args.quick else (SIZES, args.count)
    if not torch.cuda.is_available():
        print("nvJPEG: not measured, because it needs a GPU")
    with TemporaryDirectory() as name:
        for width, height in sizes:
            side, batch = (width, SMALL_BATCH) if width < SIDE else (SIDE, BATCH)
            paths = write_files(Path(name, f"{width}x{height}"), width, height, count)
            compare(f"{width}x{height}", paths, side, batch, rounds_of(args))
    if args.images:
        paths = sorted(args.images.rglob("*.jp*g"))[: args.count]
        with contextlib.closing(Image.open(paths[0])) as first:
            side, batch = (first.width, SMALL_BATCH) if first.width < SIDE else (SIDE, BATCH)
        compare("files of --images", paths, side, batch, rounds_of(args))


if __name__ == "__main__":
    main(sys.argv[1:])
