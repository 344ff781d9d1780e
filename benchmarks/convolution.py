"""Benchmark of convolutions: `FourierConv2d` and `nn.Conv2d`, for sizes of kernels and images, on each device.

python -m benchmarks.convolution
python -m benchmarks.convolution --kernels 32 --sizes 249 --channels 64 --rounds 5
python -m benchmarks.convolution --quick

A step is the convolution and the gradients of its images, weights and bias, without padding. Rounds alternate between
both. Prints the lines of benchmarks/lines.py, whose value is the time of `FourierConv2d`, and a table of its speed
relative to `nn.Conv2d`. `*` marks what `CNN` chooses by itself.
"""

import sys
from collections.abc import Sequence
from time import perf_counter

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.lines import make_parser, print_line, ratios, rounds_of, spread
from project.engine.runtime.allocator import keep_freed_memory
from project.models.fourier_conv import FourierConv2d, is_faster

KERNELS, SIZES = (3, 5, 7, 11, 15, 23, 32), (16, 32, 64, 128, 256)
QUICK = (3, 11, 32), (32, 64)


def seconds(convolution: nn.Conv2d, images: Tensor) -> float:
    """Measure a step."""
    for tensor in (images, *convolution.parameters()):
        tensor.grad = None
    start = perf_counter()
    convolution(images).sum().backward()
    if images.is_cuda:
        torch.cuda.synchronize()
    return perf_counter() - start


def measure(kernel: int, size: int, channels: int, batch: int, device: str, rounds: int) -> list[dict[str, float]]:
    """Measure the milliseconds of a step of both convolutions, in alternating rounds."""
    images = torch.randn(batch, channels, size, size, device=device, requires_grad=True)
    both = {kind.__name__: kind(channels, channels, kernel).to(device) for kind in (FourierConv2d, nn.Conv2d)}
    results = []
    for _ in range(rounds + 1):
        results.append({name: 1000 * seconds(convolution, images) for name, convolution in both.items()})
    return results[1:]  # The first round warms up.


def main(argv: Sequence[str]) -> None:
    """Measure all combinations, and print the lines and a table for each device."""
    parser = make_parser("benchmarks.convolution", __doc__, 5, "few sizes, and one round")
    parser.add_argument("--kernels", type=int, nargs="+", default=KERNELS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--channels", type=int, default=32, help="of the images and of the outputs (32)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--devices", nargs="+", choices=["cpu", "cuda"], help="all that are there, by default")
    args = parser.parse_args(argv)
    kernels, sizes = QUICK if args.quick else (args.kernels, args.sizes)
    keep_freed_memory()
    for device in args.devices or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        title = f"nn.Conv2d / FourierConv2d, {args.channels} channels, batch {args.batch}, {device}"
        table = Table("kernel", *(f"{size}x{size}" for size in sizes), title=title)
        for kernel in kernels:
            cells = [
                cell(kernel, size, args.channels, args.batch, device, rounds_of(args)) if kernel <= size else ""
                for size in sizes
            ]
            table.add_row(str(kernel), *cells)
        Console().print(table)


def cell(kernel: int, size: int, channels: int, batch: int, device: str, rounds: int) -> str:
    """Measure a combination, print its line, and return its cell of the table."""
    results = measure(kernel, size, channels, batch, device, rounds)
    ours, peers = ([one[name] for one in results] for name in ("FourierConv2d", "Conv2d"))
    print_line(f"kernel {kernel}, {size}x{size}, {device}", ours, "ms", "nn.Conv2d", peers)
    chosen = device == "cpu" and is_faster(channels, channels, kernel, size - kernel + 1)
    return spread(ratios(ours, peers, more_is_better=False)) + ("*" if chosen else "")


if __name__ == "__main__":
    main(sys.argv[1:])
