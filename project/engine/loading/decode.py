"""Decoding of files to upright RGB pixels: simplejpeg for JPEGs, Pillow for other formats.

To save work, JPEGs are decoded at 1/2, 1/4 or 1/8 of their size if that is enough.

Models that MLflow serves contain a copy of this file, which therefore imports nothing from this project.
"""

import io
import re
import struct
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8]
"""(H, W, 3), RGB."""

MOST_PIXELS = 2 * 89_478_485
"""Limit for an image: twice Pillow's MAX_IMAGE_PIXELS, which is also Pillow's limit."""

UNREADABLE = (OSError, ValueError, TypeError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
"""Exceptions that decoders raise for damaged files and for files that are not images."""

NO_IMAGE = ("no image", "empty")
"""Reasons why a file that is not an image cannot be decoded."""

_STUBS = {"BUFR", "GRIB", "HDF5", "MPEG"}  # Pillow knows these formats, but cannot decode them.
_DRAWN_ELSEWHERE = {"EPS", "WMF"}  # Pillow calls Ghostscript or Windows to draw them.
_OWN_RANGE = ("PPM", "JPEG2000")  # These files state their range, and Pillow scales the values to it.
_SIXTEEN_BITS = re.compile(r";16[BLNS]")  # In the name of a raw mode of Pillow, except `BGR;16`.
_PNG_BIT_DEPTH = 24  # Offset of the byte that holds it.
_SCALES = (8, 4, 2)
_EXIF, _UPRIGHT = b"Exif\0\0", 1
_START_OF_SCAN, _NO_MARKERS = b"\xda", (b"\x00", b"\xff")


class Decoded(NamedTuple):
    """An image, possibly decoded at a smaller size.

    pixels: (H / scale, W / scale, 3) uint8.
    scale: 1, 2, 4 or 8.
    size: H and W of the whole image.
    peak: Largest value of a 16-bit file; 0 for other files.
    """

    pixels: Pixels
    scale: int
    size: tuple[int, int]
    peak: int = 0


class Scratch:
    """Memory that successive images reuse. New memory for each image would take a fifth of the decoding time."""

    def __init__(self) -> None:
        self._memory: NDArray[np.uint8] = np.empty(0, np.uint8)

    def take(self, count: int) -> NDArray[np.uint8]:
        """Return the first `count` bytes; earlier contents are overwritten."""
        if len(self._memory) < count:
            self._memory = np.empty(count, np.uint8)
        return self._memory[:count]


@cache
def readable_formats() -> tuple[str, ...]:
    """Return Pillow's names of the supported formats, common ones first."""
    Image.init()
    named = set(Image.registered_extensions().values()) - _STUBS - _DRAWN_ELSEWHERE
    return tuple(format_ for format_ in Image.ID if format_ in named)


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of supported files in lower case, such as `.jpg`."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in readable_formats())


def begins_like_image(path: Path) -> bool:
    """Return whether a file begins like an image; so may a file that cannot be read."""
    try:
        Image.open(path, formats=readable_formats()).close()
    except UNREADABLE as error:
        return not isinstance(error, UnidentifiedImageError)
    return True


def decode_rgb(
    data: bytes, enough: int | Callable[[int, int], int] = 1, scratch: Scratch | None = None, bit_depth: int = 16
) -> Decoded:
    """Decode the content of a file as upright RGB: 8 bits, without transparency, the first frame of an animation.

    Args:
        data: The content.
        enough: Factor by which the image may be smaller in each direction, or a function of its height and width that
            returns this factor; used for JPEGs.
        scratch: Memory for the pixels; they are valid until it is used again.
        bit_depth: Number of bits of the values in 16-bit files; the upper eight are kept.

    Raises:
        UNREADABLE: The file is not an image, is damaged, or has more than `MOST_PIXELS`.
    """
    if data.startswith(b"\xff\xd8"):
        try:
            return _decode_jpeg(data, enough, scratch or Scratch())
        except ValueError:  # CMYK, rotated or damaged: Pillow decodes it or raises the reason.
            pass
    pixels, peak = _decode_any(data, bit_depth)
    return Decoded(pixels, 1, pixels.shape[:2], peak)


def write_resized(pixels: Pixels, box: Sequence[int], out: Pixels) -> None:
    """Resize a part of an image with antialiasing, as torchvision's `resized_crop` does.

    Args:
        pixels: (H, W, C) uint8.
        box: Top, left, height and width of the part.
        out: (size, size, C) uint8; gets the result.
    """
    top, left, height, width = box
    # torch has a fast path for a contiguous channels_last batch.
    part = np.ascontiguousarray(pixels[top : top + height, left : left + width]).reshape(1, height, width, -1)
    as_batch = torch.from_numpy(part.transpose(0, 3, 1, 2))
    resized = F.interpolate(as_batch, size=out.shape[:2], mode="bilinear", antialias=True)
    out[:] = resized.numpy()[0].transpose(1, 2, 0)  # Unlike a copy by torch, a copy by numpy starts no threads.


def scale_box(box: Sequence[int], scale: int) -> Sequence[int]:
    """Return the box in an image that was decoded `scale` times smaller."""
    top, left, height, width = box
    if scale == 1:
        return box
    return top // scale, left // scale, max(1, height // scale), max(1, width // scale)


def _decode_jpeg(data: bytes, enough: int | Callable[[int, int], int], scratch: Scratch) -> Decoded:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    _check_pixels(height * width)
    if colours in ("CMYK", "YCCK") or (_has_exif(data) and _orientation(data) != _UPRIGHT):
        raise ValueError("simplejpeg cannot decode it")
    factor = enough if isinstance(enough, int) else enough(height, width)
    scale = next((scale for scale in _SCALES if scale <= factor), 1)
    rows, columns = -(-height // scale), -(-width // scale)
    pixels: Pixels = simplejpeg.decode_jpeg(
        data, min_height=rows, min_width=columns, buffer=scratch.take(rows * columns * 3)
    )
    return Decoded(pixels, scale, (height, width))


def _has_exif(data: bytes) -> bool:
    """Return whether a segment before the pixels is EXIF. A search of all bytes would take 5 % of the decoding time."""
    place = 2
    while (place := data.find(b"\xff", place)) >= 0 and (marker := data[place + 1 : place + 2]) != _START_OF_SCAN:
        if data.startswith(_EXIF, place + 4):
            return True
        place += 1 if marker in _NO_MARKERS else 2 + int.from_bytes(data[place + 2 : place + 4])
    return False


def _decode_any(data: bytes, bit_depth: int) -> tuple[Pixels, int]:
    try:
        opened = Image.open(io.BytesIO(data), formats=readable_formats())
    except UnidentifiedImageError:  # Its message names the buffer, not the file.
        raise ValueError(NO_IMAGE[0] if data else NO_IMAGE[1]) from None
    with opened as image:
        _check_pixels(image.width * image.height)
        if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", *_OWN_RANGE)):
            raise ValueError(f"32 bits per pixel ({image.mode}), with an unknown range")
        if not image.mode.startswith("I") and _SIXTEEN_BITS.search(str([tile[3] for tile in image.tile])):
            if image.format != "PNG" or data[_PNG_BIT_DEPTH] != 16:
                raise ValueError("16 bits per colour, but Pillow drops the lower eight; convert it to PNG")
            return _to_rgb(_decode_deep_png(data), bit_depth)
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I"):  # Pillow would clip 16 bits at 255.
            grey = np.asarray(image).astype(np.int64).clip(0)[:, :, None]
            return (_to_rgb(grey, 16)[0], 0) if opened.format in _OWN_RANGE else _to_rgb(grey, bit_depth)
        return np.array(image if image.mode == "RGB" else image.convert("RGB")), 0


def _decode_deep_png(data: bytes) -> NDArray[Any]:
    """Decode a 16-bit colour PNG to values (H, W, 1 or 3), without transparency."""
    from torchvision.io import decode_png  # It takes seconds to import, and few images need it.

    try:
        values = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), apply_exif_orientation=True)
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())) from error
    colours: NDArray[Any] = values.numpy()[: 3 if len(values) > 2 else 1]
    return colours.transpose(1, 2, 0)


def _to_rgb(values: NDArray[Any], bit_depth: int) -> tuple[Pixels, int]:
    """Return the upper eight bits of values (H, W, 1 or 3) as RGB, and the largest value."""
    pixels = (values >> (bit_depth - 8)).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))), int(values.max(initial=0))


def _check_pixels(count: int) -> None:
    if count > MOST_PIXELS:
        raise ValueError(f"{count:,} pixels, a possible decompression bomb; the limit is {MOST_PIXELS:,}")


def _orientation(data: bytes) -> int:
    with Image.open(io.BytesIO(data)) as image:
        return int(image.getexif().get(0x0112, _UPRIGHT))
