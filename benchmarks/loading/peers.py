"""Loaders of other libraries, which do the work of benchmarks/loading: random crop to 224 pixels, flip, normalise.

Each function takes the folder of images, and returns a function that loads an epoch and counts its images. None of
these packages is a dependency: `pip install nvidia-dali-cuda120 spdl litdata ffcv`. pip compiles FFCV, which needs the
headers of OpenCV and libturbojpeg. SPDL needs the libraries of FFmpeg.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL.JpegImagePlugin import JpegImageFile
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision.transforms import v2

WORKERS, BATCH, SIZE, MIN_AREA = 2, 128, 224, 0.08
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MEAN_255, STD_255 = ([255 * value for value in values] for values in (MEAN, STD))

Epoch = Callable[[], int]
Make = Callable[[Path], Epoch]


def dataloader_epoch(dataset: Dataset[Any], batch_size: int = BATCH) -> Epoch:
    """Return a function that loads an epoch with torch's DataLoader."""
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    return lambda: sum(len(images) for images, _ in loader)


def torchvision_folder(root: Path) -> Epoch:
    """Load as most templates do: Pillow, and torchvision's transforms for each image."""
    crop = v2.RandomResizedCrop(SIZE, scale=(MIN_AREA, 1), antialias=True)
    to_float = v2.ToDtype(torch.float32, scale=True)
    change = v2.Compose([v2.ToImage(), crop, v2.RandomHorizontalFlip(), to_float, v2.Normalize(MEAN, STD)])
    return dataloader_epoch(datasets.ImageFolder(str(root / "train"), change))


def decoding_only(root: Path) -> Epoch:
    """Decode files from memory in threads, without a loader, and discard the images."""
    files = [path.read_bytes() for path in sorted((root / "train").rglob("*.jpg"))]

    def decode(part: list[bytes]) -> None:
        memory = np.empty(320 * 400 * 3, np.uint8)
        for data in part:
            simplejpeg.decode_jpeg(data, buffer=memory)

    def epoch() -> int:
        with ThreadPoolExecutor(WORKERS) as threads:
            list(threads.map(decode, [files[first::WORKERS] for first in range(WORKERS)]))
        return len(files)

    return epoch


def dali(root: Path) -> Epoch:
    """Load with DALI's CPU pipeline, whose decoder decodes only the crop."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=BATCH, num_threads=WORKERS, device_id=None)  # type: ignore[untyped-decorator]
    def pipeline() -> tuple[Any, ...]:
        files, labels = fn.readers.file(file_root=str(root / "train"), random_shuffle=True, name="files")
        images = fn.decoders.image_random_crop(files, device="cpu", random_area=[MIN_AREA, 1.0])
        images = fn.resize(images, resize_x=SIZE, resize_y=SIZE)
        mirror = fn.random.coin_flip()
        normalised = fn.crop_mirror_normalize(
            images, mean=MEAN_255, std=STD_255, mirror=mirror, dtype=types.FLOAT, output_layout="CHW"
        )
        return normalised, labels

    built = pipeline()
    built.build()
    steps = built.epoch_size("files") // BATCH

    def epoch() -> int:
        return sum(np.asarray(built.run()[0].as_array()).shape[0] for _ in range(steps))

    return epoch


def ffcv(root: Path, mode: str, largest: int | None = None) -> Epoch:
    """Load with FFCV, which first converts the folder into one file.

    Args:
        root: The folder of images.
        mode: `jpg`, or `raw` for decoded pixels.
        largest: Largest side of a converted image in pixels; None keeps the size.
    """
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage
    from ffcv.writer import DatasetWriter

    path = root / f"{mode}-{largest}.beton"
    images = RGBImageField(write_mode=mode, max_resolution=largest, jpeg_quality=92)
    writer = DatasetWriter(str(path), {"image": images, "label": IntField()}, num_workers=WORKERS)
    writer.from_indexed_dataset(datasets.ImageFolder(str(root / "train")))
    crop = RandomResizedCropRGBImageDecoder((SIZE, SIZE), scale=(MIN_AREA, 1))
    normalise = NormalizeImage(np.array(MEAN_255), np.array(STD_255), np.float32)
    loader = Loader(
        str(path), batch_size=BATCH, num_workers=WORKERS, order=OrderOption.RANDOM, os_cache=True, drop_last=False,
        pipelines={
            "image": [crop, RandomHorizontalFlip(), normalise, ToTensor(), ToTorchImage()],
            "label": [IntDecoder(), ToTensor()],
        },
    )  # fmt: skip
    return lambda: sum(len(images) for images, _ in loader)


def spdl(root: Path) -> Epoch:
    """Load with SPDL: threads decode, crop and resize with FFmpeg, and one thread makes batches."""
    from spdl.io import load_image, to_torch
    from spdl.pipeline import PipelineBuilder

    files = [str(path) for path in sorted((root / "train").rglob("*.jpg"))]
    size_only, scale, shift = (
        torch.empty(3, 320, 400),
        1 / torch.tensor(STD_255),
        -torch.tensor(MEAN) / torch.tensor(STD),
    )

    def load(path: str) -> torch.Tensor:
        top, left, height, width = v2.RandomResizedCrop.get_params(size_only, [MIN_AREA, 1], [3 / 4, 4 / 3])
        chain = f"crop={width}:{height}:{left}:{top},scale={SIZE}:{SIZE}:flags=bilinear,format=pix_fmts=rgb24"
        pixels: torch.Tensor = to_torch(load_image(path, filter_desc=chain))
        return pixels.flip(1) if torch.rand(()) < 0.5 else pixels

    def batch(images: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(images).mul(scale).add_(shift)

    def epoch() -> int:
        order = [files[place] for place in torch.randperm(len(files)).tolist()]
        builder = PipelineBuilder().add_source(order).pipe(load, concurrency=WORKERS).aggregate(BATCH).pipe(batch)
        pipeline = builder.add_sink(2).build(num_threads=WORKERS)
        with pipeline.auto_stop():
            return sum(len(images) for images in pipeline)

    return epoch


def litdata(root: Path) -> Epoch:
    """Load with LitData, which first converts the folder into chunks of JPEGs; its processes decode image by image."""
    from litdata import StreamingDataLoader, StreamingDataset, optimize

    chunks = root / "litdata"
    samples = [(path, label) for label in (0, 1) for path in sorted((root / f"train/{label}").glob("*.jpg"))]
    optimize(fn=_as_jpeg, inputs=samples, output_dir=str(chunks), chunk_bytes="64MB", num_workers=WORKERS)
    crop = v2.RandomResizedCrop(SIZE, scale=(MIN_AREA, 1), antialias=True)
    to_float = v2.ToDtype(torch.float32, scale=True)
    change = v2.Compose([v2.ToImage(), crop, v2.RandomHorizontalFlip(), to_float, v2.Normalize(MEAN, STD)])
    dataset = StreamingDataset(str(chunks), shuffle=True, transform=[itemgetter("image"), change])
    loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=WORKERS)
    return lambda: sum(len(images) for images in loader)


def _as_jpeg(sample: tuple[Path, int]) -> dict[str, Any]:
    return {"image": JpegImageFile(sample[0]), "label": sample[1]}


JPEGS: dict[str, Make] = {
    "decoding only": decoding_only,
    "DataLoader": torchvision_folder,
    "DALI": dali,
    "SPDL": spdl,
    "LitData": litdata,
    "FFCV jpg": partial(ffcv, mode="jpg"),
    "FFCV raw": partial(ffcv, mode="raw"),
}
"""Loaders that decode JPEGs, or that have converted them into pixels of the same size."""

CACHED: dict[str, Make] = {"FFCV raw": partial(ffcv, mode="raw", largest=256)}
"""Loaders that read pixels decoded before, with at most 256 a side."""

PACKAGES = {"DALI": "nvidia.dali", "SPDL": "spdl", "LitData": "litdata", "FFCV jpg": "ffcv", "FFCV raw": "ffcv"}


def installed(name: str) -> bool:
    """Report whether a peer's package is installed."""
    package = PACKAGES.get(name, "torch")
    return find_spec(package.partition(".")[0]) is not None and find_spec(package) is not None
