"""The square in the middle of an image, which evaluations, predictions and served models see.

Models that MLflow serves contain a copy of this file and of the file that it imports, so the import is relative.
"""

import torch
from torch import Tensor

from .decode import Decoded, Pixels, Scratch, decode_rgb, scale_box, write_resized

# Weights of red, green and blue in 1/65,536, as Pillow has them; equal colours keep their value.
_LUMA = (19595, 38470, 7471)


def center_squares(sizes: Tensor) -> Tensor:
    """Return the largest square in the middle of each image.

    Args:
        sizes: (N, 2) int64, height and width.

    Returns:
        (N, 4) int64: top, left, height, width.
    """
    side = sizes.min(1, keepdim=True).values.expand(-1, 2)
    return torch.cat([(sizes - side) // 2, side], 1)


def write_square(image: bytes | Pixels, out: Pixels, scratch: Scratch | None = None, bit_depth: int = 16) -> None:
    """Write the square in the middle of an image, resized with antialiasing.

    Args:
        image: The content of a file, or decoded pixels (H, W, C) uint8.
        out: (size, size, C) uint8; C is 3 for a file.
        scratch: See `decode_rgb`.
        bit_depth: Number of bits of the values in 16-bit files.

    Raises:
        UNREADABLE: The file cannot be decoded.
    """
    if isinstance(image, bytes):
        decoded = decode_rgb(image, lambda *size: _center(size)[2] // len(out), scratch, bit_depth)
    else:
        decoded = Decoded(image, 1, (image.shape[0], image.shape[1]))
    write_resized(decoded.pixels, scale_box(_center(decoded.size), decoded.scale), out)


def to_grey(images: Tensor) -> Tensor:
    """Map colour images (N, 3, H, W) to (N, 1, H, W), both uint8, as Pillow does."""
    weights = torch.tensor(_LUMA, device=images.device, dtype=torch.int32).view(3, 1, 1)
    luma: Tensor = (images.int() * weights).sum(1, keepdim=True) + 2**15
    return (luma >> 16).to(torch.uint8)


def _center(size: tuple[int, ...]) -> list[int]:
    box: list[int] = center_squares(torch.tensor([size]))[0].tolist()
    return box
