import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import picture
from PIL import Image

from project.engine.loading.decode import decode_rgb


def write(folder: Path) -> dict[str, Path]:
    """Write one picture in every file format."""
    image = picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation 6 means a rotation by 90 degrees.
    see_through = image.convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(image.size))
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    made = {
        "jpeg": (image, "a.jpg", {"quality": 95}),
        "rotated": (image.transpose(Image.Transpose.ROTATE_90), "b.jpg", {"quality": 95, "exif": exif}),
        "cmyk": (image.convert("CMYK"), "c.jpg", {"quality": 95}),
        "grey jpeg": (image.convert("L"), "d.jpg", {"quality": 95}),
        "progressive": (image, "e.jpg", {"quality": 95, "progressive": True}),
        "png": (image, "f.png", {}),
        "palette": (image.quantize(256), "g.png", {}),
        "rgba": (see_through, "h.png", {}),
        "grey png": (image.convert("L"), "i.png", {}),
        "16 bits": (deep, "j.png", {}),
        "webp": (image, "k.webp", {"quality": 95}),
        "gif": (image, "l.gif", {}),
        "jpeg named png": (image, "m.png", {"format": "JPEG", "quality": 95}),
    }
    for source, name, options in made.values():
        source.save(folder / name, **options)
    return {kind: folder / name for kind, (_, name, _) in made.items()}


def test_every_file_format_is_decoded_correctly(tmp_path: Path) -> None:
    expected = np.asarray(picture()).astype(int)
    for kind, path in write(tmp_path).items():
        pixels = decode_rgb(path.read_bytes()).pixels
        right = (
            np.asarray(picture().convert("L").convert("RGB")).astype(int)
            if kind in ("grey jpeg", "grey png", "16 bits")
            else expected
        )
        assert pixels.shape == right.shape, kind
        assert np.abs(pixels - right).mean() < 5, kind


def deep_colours(path: Path, values: NDArray[np.int64]) -> None:
    """Write a PNG with 16 bits per colour, which Pillow cannot do."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    data = b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
        for kind, part in parts.items()
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


@pytest.mark.parametrize("bits", [12, 16])
def test_colours_of_sixteen_bits_keep_their_upper_eight_bits(bits: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (20, 30, 3))
    deep_colours(tmp_path / "a.png", values)
    image = decode_rgb((tmp_path / "a.png").read_bytes(), bit_depth=bits)
    assert np.array_equal(image.pixels, values >> (bits - 8))
    assert image.peak == values.max()


@pytest.mark.parametrize("stray", [b"\xff\xff", b"\xff\0"])
def test_a_jpeg_is_rotated_whichever_segments_precede_its_exif(stray: bytes, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(tmp_path / "plain.jpg", exif=exif)
    data = (tmp_path / "plain.jpg").read_bytes()
    place = data.index(b"\xff\xe1")
    (tmp_path / "stray.jpg").write_bytes(data[:place] + stray + data[place:])
    assert (
        decode_rgb((tmp_path / "plain.jpg").read_bytes()).size
        == decode_rgb((tmp_path / "stray.jpg").read_bytes()).size
        == (60, 40)
    )


@pytest.mark.parametrize("enough", [1, 2, 5, 30])
def test_a_large_jpeg_is_decoded_no_larger_than_needed(enough: int, tmp_path: Path) -> None:
    picture(403, 601).save(tmp_path / "large.jpg", quality=95)
    image = decode_rgb((tmp_path / "large.jpg").read_bytes(), enough)
    assert image.scale == {1: 1, 2: 2, 5: 4, 30: 8}[enough]
    assert image.size == (403, 601)
    assert image.pixels.shape == (-(-403 // image.scale), -(-601 // image.scale), 3)


def test_a_truncated_jpeg_is_refused(tmp_path: Path) -> None:
    picture(200, 200).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(OSError, match="truncated"):
        decode_rgb((tmp_path / "a.jpg").read_bytes())
