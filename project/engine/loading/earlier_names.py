"""The earlier names of options of images, which command lines, YAML files and search spaces may still use."""

from collections.abc import Mapping

EARLIER_NAMES: Mapping[str, str] = {
    "crop_padding": "augmentation.crop_padding",
    "horizontal_flip": "augmentation.horizontal_flip",
    "random_resized_crop": "augmentation.random_resized_crop",
    "cutout": "augmentation.cutout",
    "mixup": "augmentation.mixup",
    "cutmix": "augmentation.cutmix",
    "num_workers": "workers.num",
    "prefetch_factor": "workers.prefetch_factor",
    "persistent_workers": "workers.persistent",
    "pin_memory": "workers.pin_memory",
    "worker_timeout_s": "workers.timeout_s",
}
