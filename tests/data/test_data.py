import functools
import gzip
import hashlib
import shutil
import threading
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_folder, write_mnist
from PIL import Image
from torch import Tensor
from torchvision import datasets

from project.data import MNIST, Digits, ImageFolder, LabelledImages
from project.engine.loading import Augmentation, ImageArray, Workers
from project.engine.runtime.places import cache_of

pytestmark = pytest.mark.usefixtures("other_folder")


def test_validation_is_a_seeded_part_of_train_and_test_is_separate() -> None:
    def images(data: LabelledImages, split: str) -> set[bytes]:
        data.setup("fit")
        stored = data.splits[split].images  # type: ignore[attr-defined, index]
        return {image.numpy().tobytes() for image in stored}

    first, again, other = Digits(), Digits(), Digits(split_seed=1)
    assert images(first, "val") == images(again, "val") != images(other, "val")
    assert images(first, "test") == images(other, "test")
    assert not images(first, "val") & images(first, "train")
    assert not images(first, "test") & (images(first, "train") | images(first, "val"))
    assert first.digest() == again.digest() != other.digest()


def test_the_digest_differs_for_other_images_with_the_same_labels() -> None:
    data = Digits()
    data.setup("fit")
    before, test = data.digest(), data.splits["test"]
    data.splits["test"] = ImageArray(255 - data.fetch("test", torch.arange(len(test)))[0], test.targets)
    assert data.digest() != before


def test_normalisation_uses_the_statistics_of_the_images() -> None:
    data = Digits()
    data.setup("fit")
    pixels = data.splits["train"].images.float() / 255  # type: ignore[attr-defined]
    assert data.mean[0] == pytest.approx(pixels.mean().item(), abs=0.01)
    assert data.std[0] == pytest.approx(pixels.std().item(), abs=0.01)


def test_grey_images_get_the_channels_and_the_size_of_the_model() -> None:
    data = Digits(image_size=48, channels=3)
    data.setup("fit")
    assert data.examples()[0].shape == (2, 3, 48, 48)
    assert (len(data.mean), len(data.std)) == (3, 3)


def test_mnist_is_downloaded_unpacked_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "made", np.random.default_rng(0))
    served = tmp_path / "served"
    served.mkdir()
    resources = []
    for path in sorted((tmp_path / "made").iterdir()):
        packed = gzip.compress(path.read_bytes())
        (served / f"{path.name}.gz").write_bytes(packed)
        resources.append((f"{path.name}.gz", hashlib.md5(packed).hexdigest()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(SimpleHTTPRequestHandler, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    try:
        data = MNIST(root=str(tmp_path / "data"))
        data.prepare_data()
    finally:
        server.shutdown()
        server.server_close()
    data.setup("fit")
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 30, "val": 10, "test": 40}
    assert cache_of(Path(data.source)).is_dir()  # `project.clean` looks for it there.


def test_another_dataset_does_not_read_the_files_of_its_base_class() -> None:
    with pytest.raises(TypeError, match="KMNIST sets dataset to 'KMNIST' and not folder"):
        type("KMNIST", (MNIST,), {"dataset": "KMNIST"})


def test_an_image_folder_is_read_with_its_labels(tmp_path: Path) -> None:
    write_folder(tmp_path)
    Image.new("L", (30, 90), 128).save(tmp_path / "train/red/grey.png")
    Image.new("RGBA", (90, 30), (0, 255, 0, 255)).save(tmp_path / "train/red/see-through.png")
    data = ImageFolder(root=str(tmp_path), image_size=32, workers=Workers(num=0))
    data.setup("fit")
    assert data.class_names == ("blue", "red")
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [23, 3, 24]
    images, labels = data.fetch("test", torch.arange(24))
    assert images.shape == (24, 3, 32, 32)
    assert images.dtype == torch.uint8
    channel_means = images.float().mean((2, 3))
    assert (channel_means[labels == 1, 0] > 150).all()
    assert (channel_means[labels == 0, 2] > 150).all()
    assert len(data.fetch("train", torch.arange(23))[0]) == 23


def test_a_folder_with_its_own_validation_split_keeps_it(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "test").rename(tmp_path / "val")
    data = ImageFolder(root=str(tmp_path))
    data.setup("fit")
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 24, "val": 24}
    assert not data.has_test


@pytest.mark.parametrize("options", [{"cache": "off"}, {"cache": "on"}, {"cache": "off", "workers": Workers(num=0)}])
def test_train_images_do_not_depend_on_the_loading_and_differ_by_epoch(tmp_path: Path, options: dict[str, Any]) -> None:
    write_folder(tmp_path)
    Image.effect_mandelbrot((90, 70), (-2, -1, 1, 1), 50).convert("RGB").save(tmp_path / "train/red/detail.jpg")
    augmentation = Augmentation(random_resized_crop=0.3, horizontal_flip=True, cutout=4)

    def epoch(number: int, batch_size: int) -> dict[bytes, int]:
        data = ImageFolder(
            root=str(tmp_path), image_size=32, batch_size=batch_size, augmentation=augmentation, **options
        )
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)
        seen = [pair for images, labels in loader for pair in zip(images, labels.tolist(), strict=True)]
        assert len(seen) == len(data.splits["train"])
        return dict(Counter(image.numpy().tobytes() for image, _ in seen))

    assert epoch(0, 8) == epoch(0, 5)
    assert epoch(0, 8) != epoch(1, 8)


def test_mixed_labels_reach_the_model_as_probabilities() -> None:
    data = Digits(batch_size=100, augmentation=Augmentation(mixup=0.4, cutmix=1.0))
    data.setup("fit")
    images, labels = next(iter(data.train_dataloader()))
    assert (images.dtype, images.shape[1:]) == (torch.uint8, (1, 32, 32))
    assert labels.shape[1] == 10
    assert torch.allclose(labels.sum(1), torch.ones(len(labels)))
    assert (labels.max(1).values < 1).any()
    assert next(iter(data.val_dataloader()))[1].dtype == torch.int64


def test_a_home_folder_is_found_and_its_changed_files_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All spellings of a root are one folder with one cache."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "data/MNIST/raw"
    (tmp_path / "link").symlink_to("data")

    def first_image(root: str) -> Tensor:
        data = MNIST(root=root)
        data.setup("fit")
        return data.fetch("test", torch.tensor([0]))[0]

    write_mnist(raw, np.random.default_rng(0))
    before = first_image("~/data")
    shutil.rmtree(raw)
    write_mnist(raw, np.random.default_rng(1))
    after = first_image("~/data")
    assert not torch.equal(before, after)
    assert all(torch.equal(first_image(root), after) for root in ("data", "data/", str(tmp_path / "data"), "link"))
    assert len(list(tmp_path.rglob("*.npy"))) == 4  # images and labels of train and test
