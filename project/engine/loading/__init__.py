"""Batches on their way from storage to the model.

ImageDataModule      the splits, their loaders, and the position of a resumed training
    |
EpochBatches         the images of each rank and step; in an interrupted epoch, those that are left
    |                indices -> Request: with a key for each image, from (seed, epoch, index)
    v
store.stream         ImageArray    in memory, or a decoded cache on disk: one gather
    |                ImageFiles    threads decode, crop and resize into the memory of the batch
    |                TorchDataset  your own map-style dataset: DataLoader's processes
    v                Fetched: images uint8 (N, C, H, W), targets (N, ...), keys
on_device            copied on a separate stream while the model works on the batch before; nothing on a CPU, or if
    |                the images are on the device already (`data.on_device`)
    v
Crop                 images in memory are cropped and resized to squares, whole batches on the device
    v
Augmentation         shift, flip, ..., mixup: whole batches on the device, with random draws per image from its key
    v
BatchLoader          the trainer iterates over it: measures waiting, and resumes an epoch where it was stopped

Before the first training on a folder of files, `check_files` finds damaged ones, and `cached` decodes what fits.
"""

from project.engine.loading.augmentation import Augmentation
from project.engine.loading.batches import EpochBatches
from project.engine.loading.cache import cached, mapped
from project.engine.loading.counter_rng import integers, uniform
from project.engine.loading.crop import Crop
from project.engine.loading.datamodule import ImageDataModule
from project.engine.loading.decode import NO_IMAGE, begins_like_image, image_suffixes
from project.engine.loading.durable import remove_oldest, remove_outdated
from project.engine.loading.image_files import FileList, ImageFiles, UncheckedFiles
from project.engine.loading.image_splits import Split
from project.engine.loading.images import ImageArray, Images
from project.engine.loading.loader import BatchLoader
from project.engine.loading.ranges import check_range
from project.engine.loading.step_seed import StepSeed
from project.engine.loading.validation import split_off
from project.engine.loading.verify import check_files
from project.engine.loading.worker_dataset import TorchDataset
from project.engine.loading.workers import Workers

__all__ = [
    "NO_IMAGE",
    "Augmentation",
    "BatchLoader",
    "Crop",
    "EpochBatches",
    "FileList",
    "ImageArray",
    "ImageDataModule",
    "ImageFiles",
    "Images",
    "Split",
    "StepSeed",
    "TorchDataset",
    "UncheckedFiles",
    "Workers",
    "begins_like_image",
    "cached",
    "check_files",
    "check_range",
    "image_suffixes",
    "integers",
    "mapped",
    "remove_oldest",
    "remove_outdated",
    "split_off",
    "uniform",
]
