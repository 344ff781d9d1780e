"""Images that are kept on the training device: `data.on_device`."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_folder
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from project.data import Digits, ImageFolder
from project.engine.loading import Augmentation, BatchLoader, Crop, EpochBatches, ImageArray

pytestmark = pytest.mark.usefixtures("other_folder")

CHANGES = Augmentation(2, True, 0.4, 4, 0.2, 0.3, padding_mode="reflect")


def batches(*, on_device: bool, taken: int = 0, **options: Any) -> list[tuple[Tensor, Tensor]]:
    """Return the batches of the second epoch of the digits, without the first `taken`."""
    data = Digits(batch_size=300, augmentation=CHANGES, on_device=on_device, **options)
    data.setup("fit")
    loader = data.train_dataloader()
    loader.sampler.set_epoch(1)
    if taken:
        list(islice(iter(loader), taken))
        state, loader = loader.state_dict(), data.train_dataloader()
        loader.sampler.set_epoch(1)
        loader.load_state_dict(state)
    return list(loader)


def test_batches_are_the_same_with_and_without_it_also_after_a_resume() -> None:
    expected, found = batches(on_device=False), batches(on_device=True)
    assert len(expected) == 5
    for one, other in zip(expected + expected[3:], found + batches(on_device=True, taken=3), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


class Inputs(TorchDispatchMode):
    """Records the devices of the inputs of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.devices: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.devices |= {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("on_device", [True, False])
def test_a_step_uses_nothing_from_the_host(on_device: bool) -> None:
    device = torch.device("meta")  # It computes shapes only, and needs no GPU.
    images = ImageArray(torch.zeros(60, 3, 16, 16, dtype=torch.uint8), torch.arange(60)).subset(torch.arange(50))
    augment = Augmentation(2, "alternate", cutout=4, padding_mode="reflect")
    loader = BatchLoader(
        images, EpochBatches(50, 10, shuffle=True), Crop(16), augment, seed=0, device=device,
        resident=images.to(device) if on_device else None,
    )  # fmt: skip
    made = iter(loader)
    next(made)
    with Inputs() as inputs:
        rest = list(made)
    assert [(x.shape, x.device.type, y.device.type) for x, y in rest] == [((10, 3, 16, 16), "meta", "meta")] * 4
    assert inputs.devices == ({"meta"} if on_device else {"cpu", "meta"})


@pytest.mark.parametrize("options", [{"cache": "off"}, {"augmentation": Augmentation(random_resized_crop=0.5)}])
def test_images_that_are_decoded_for_each_batch_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    write_folder(tmp_path)
    data = ImageFolder(root=str(tmp_path), image_size=8, on_device=True, **options)
    with pytest.raises(
        ValueError, match=r"^data\.on_device: got true, but train is not in memory: ImageFiles .* --data"
    ):
        data.setup("fit")
