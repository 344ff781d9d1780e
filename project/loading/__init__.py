"""Batches on their way from storage to the device.

ImageArray or ImageFiles        where images live: memory, or files decoded when they are asked for
  -> EpochBatches               which images a rank takes in which step: lists of indices
  -> MeasuredLoader             worker processes fetch whole batches; the wait for them is timed
  -> device                     uint8 all the way
  -> crop, flip                 a draw for each image, on the device
"""

from project.loading.augment import random_crop, random_flip
from project.loading.batches import EpochBatches
from project.loading.images import ImageArray, ImageFiles, Images
from project.loading.loader import MeasuredLoader

__all__ = [
    "EpochBatches",
    "ImageArray",
    "ImageFiles",
    "Images",
    "MeasuredLoader",
    "random_crop",
    "random_flip",
]
