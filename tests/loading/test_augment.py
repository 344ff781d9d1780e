import torch

from project.loading import random_crop, random_flip


def test_a_crop_is_a_window_of_the_padded_image_for_each_image_its_own() -> None:
    images = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8)
    cropped = random_crop(images, 2, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    shifts = set()
    for image, result in zip(padded, cropped, strict=True):
        windows = {(y, x): image[:, y : y + 8, x : x + 8] for y in range(5) for x in range(5)}
        (shift,) = [where for where, window in windows.items() if torch.equal(window, result)]
        shifts.add(shift)
    assert len(shifts) > 10


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    images = torch.randint(0, 256, (200, 1, 4, 6), dtype=torch.uint8)
    flipped = random_flip(images, torch.Generator().manual_seed(0))
    mirrored = [torch.equal(a.flip(-1), b) for a, b in zip(images, flipped, strict=True)]
    assert all(m or torch.equal(a, b) for a, b, m in zip(images, flipped, mirrored, strict=True))
    assert 60 < sum(mirrored) < 140
