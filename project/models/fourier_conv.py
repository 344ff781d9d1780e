"""A convolution for large kernels: products in the frequency domain, by tiles.

images  (N, C, H, W) -> tiles that overlap by a kernel  -> spectra (frequencies, N * tiles, C)
weights (O, C, K, K)                                    -> spectra (frequencies, C, O)
their products       (frequencies, N * tiles, O)        -> tiles of the outputs (N, O, H - K + 1, W - K + 1)

The Fourier transforms are matrix products, too. For tiles of this size, they are faster than an FFT on a CPU, leave the
spectra in the order of the products, and need no complex numbers, which torch cannot compile.
"""

import math
from contextlib import nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SMALLEST_KERNEL, _LEAST_SAVING = 15, 1.5
"""Measured by `python -m benchmarks.convolution`: torch's convolution has fast code for kernels below 15 on CPUs."""

Convolution = Literal["auto", "direct", "fourier"]


class FourierConv2d(nn.Conv2d):
    """An `nn.Conv2d` with stride 1 that is computed in the frequency domain, at least in float32.

    Outputs, gradients, parameters and state are those of `nn.Conv2d`, up to the rounding of floats.

    Args:
        in_channels: Channels of the images.
        out_channels: Channels of the outputs.
        kernel_size: Side of the kernel in pixels.
        padding: Pixels added on each side; `same` keeps the size of the images.
        cpu_only: On devices other than the CPU, compute as `nn.Conv2d` does.

    Source: Mathieu, Henaff and LeCun, Fast Training of Convolutional Networks through FFTs, ICLR 2014.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        padding: int | Literal["same"] = 0,
        *,
        cpu_only: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=padding)
        self.cpu_only = cpu_only

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to (N, out_channels, H', W'); float32 for images of 16 bits."""
        if self.cpu_only and images.device.type != "cpu":
            return super().forward(images)
        before, after = _paddings(self.kernel_size[0], self.padding)
        kind = images.device.type
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            dtype = torch.promote_types(images.dtype, torch.float32)
            padded = F.pad(images.to(dtype), (before, after, before, after))
            outputs = convolve(padded, self.weight.to(dtype))
            return outputs if self.bias is None else outputs + self.bias.to(dtype).view(1, -1, 1, 1)


def make_convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    padding: int | Literal["same"],
    side: int,
    method: Convolution = "auto",
) -> nn.Conv2d:
    """Return a convolution with stride 1 for images of `side` pixels.

    `auto` chooses the one that is faster on CPUs; other devices compute the direct one.
    """
    outputs = side + sum(_paddings(kernel_size, padding)) - kernel_size + 1
    is_auto = method == "auto"
    if method == "fourier" or (is_auto and is_faster(in_channels, out_channels, kernel_size, outputs)):
        return FourierConv2d(in_channels, out_channels, kernel_size, padding, cpu_only=is_auto)
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding)


def is_faster(in_channels: int, out_channels: int, kernel_size: int, outputs: int) -> bool:
    """Return whether a training step is faster on CPUs with `FourierConv2d`, from the multiplications of both.

    Args:
        in_channels: Channels of the image; there is one image in a batch.
        out_channels: Channels of the outputs.
        kernel_size: Side of the kernel.
        outputs: Side of the outputs.
    """
    if outputs < 1 or kernel_size < _SMALLEST_KERNEL:
        return False
    size, count = _tiles(outputs, kernel_size)
    step, half = size - kernel_size + 1, size // 2 + 1
    of_images = in_channels * count**2 * size * (size + 2 * size) * 2 * half
    of_weights = in_channels * out_channels * kernel_size * (kernel_size + 2 * size) * 2 * half
    of_outputs = out_channels * count**2 * step * (2 * size + step) * 2 * half
    products = 4 * size * half * count**2 * in_channels * out_channels
    direct = (outputs * kernel_size) ** 2 * in_channels * out_channels
    return direct > _LEAST_SAVING * (of_images + of_weights + of_outputs + products)


def convolve(images: Tensor, weights: Tensor) -> Tensor:
    """Convolve images (N, C, H, W) with weights (O, C, K, K), without padding; returns (N, O, H - K + 1, W - K + 1)."""
    number, channels, height, width = images.shape
    out_channels, _, kernel, _ = weights.shape
    size, rows = _tiles(height - kernel + 1, kernel)
    step = size - kernel + 1
    columns = math.ceil((width - kernel + 1) / step)
    whole = (0, (columns - 1) * step + size - width, 0, (rows - 1) * step + size - height)
    tiles = F.pad(images, whole).unfold(2, size, step).unfold(3, size, step)  # (N, C, rows, columns, size, size)
    tiles = tiles.permute(4, 5, 0, 2, 3, 1).reshape(size, size, -1)
    real, imaginary = (part.view(size * (size // 2 + 1), -1, channels) for part in _spectrum(tiles, size))
    kernels = weights.permute(2, 3, 1, 0).reshape(kernel, kernel, -1)
    of_weights = (part.view(size * (size // 2 + 1), channels, out_channels) for part in _spectrum(kernels, size))
    weights_real, weights_imaginary = of_weights
    # With the conjugate of the weights' spectrum, the result is a correlation, as in `nn.Conv2d`.
    outputs = _inverse(
        torch.baddbmm(torch.bmm(real, weights_real), imaginary, weights_imaginary).view(size, size // 2 + 1, -1),
        torch.baddbmm(torch.bmm(imaginary, weights_real), real, weights_imaginary, alpha=-1).view(
            size, size // 2 + 1, -1
        ),
        step,
    )
    outputs = outputs.view(step, step, number, rows, columns, out_channels).permute(2, 5, 3, 0, 4, 1)
    joined = outputs.reshape(number, out_channels, rows * step, columns * step)
    return joined[:, :, : height - kernel + 1, : width - kernel + 1]


def _tiles(outputs: int, kernel: int) -> tuple[int, int]:
    """Return the side of a tile, which is even, and the number of tiles in a row; half of a tile is outputs."""
    count = max(1, round(outputs / (kernel + 1)))
    size = math.ceil(outputs / count) + kernel - 1
    size += size % 2
    return size, math.ceil(outputs / (size - kernel + 1))


def _paddings(kernel: int, padding: str | int | tuple[int, ...]) -> tuple[int, int]:
    """Return the pixels to add before and after; an even kernel with `same` has one more after."""
    if padding == "same":
        return (kernel - 1) // 2, kernel // 2
    side = int(padding[0] if isinstance(padding, tuple) else padding)
    return side, side


def _angles(one: int, other: int, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, each (one, other), of the frequencies of a transform over `size` samples."""
    turns = torch.outer(torch.arange(one, device=like.device), torch.arange(other, device=like.device)) % size
    angles = turns.double() * (2 * math.pi / size)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _spectrum(samples: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Transform samples (rows, columns, M), padded by zeros to `size`; returns two parts (size, size / 2 + 1, M)."""
    rows, columns, many = samples.shape
    half = size // 2 + 1
    cosines, sines = _angles(half, columns, size, samples)
    across = torch.cat([cosines, -sines]) @ samples  # (rows, 2 * half, M)
    down = torch.cat(_angles(size, rows, size, samples)) @ across.view(rows, -1)
    (real_cos, imaginary_cos), (real_sin, imaginary_sin) = (
        part.unbind(1) for part in down.view(2, size, 2, half, many).unbind(0)
    )
    return real_cos + imaginary_sin, imaginary_cos - real_sin


def _inverse(real: Tensor, imaginary: Tensor, step: int) -> Tensor:
    """Transform a spectrum (size, size / 2 + 1, M) back; returns the first samples, (step, step, M)."""
    size, half, many = real.shape
    both = torch.stack([real, imaginary], 1).view(size, -1)
    down = torch.cat(_angles(step, size, size, real)) @ both
    (real_cos, imaginary_cos), (real_sin, imaginary_sin) = (
        part.unbind(1) for part in down.view(2, step, 2, half, many).unbind(0)
    )
    # A real signal has each frequency twice, except the first and the last one.
    weights = torch.full((half,), 2.0 / size**2, device=real.device, dtype=real.dtype)
    weights[0] = weights[-1] = 1.0 / size**2
    cosines, sines = (part * weights for part in _angles(step, half, size, real))
    return torch.cat([cosines, -sines], 1) @ torch.cat([real_cos - imaginary_sin, imaginary_cos + real_sin], 1)
