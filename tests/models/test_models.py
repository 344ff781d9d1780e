from functools import partial

import pytest
import torch
from torch import nn

from project.models import CNN, TorchvisionModel
from project.tasks.image import ImageTask, NetCallable


def test_the_cnn_has_the_layers_of_the_article() -> None:
    net = CNN(10, 1, 32)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    linears = [m for m in net.modules() if isinstance(m, nn.Linear)]
    assert [c.out_channels for c in convolutions] == [64, 64, 128, 128]
    assert [c.kernel_size for c in convolutions] == [(3, 3)] * 4
    assert sum(isinstance(m, nn.MaxPool2d) for m in net.modules()) == 4
    assert [(m.in_features, m.out_features) for m in linears] == [(512, 512), (512, 10)]
    assert net(torch.rand(2, 1, 32, 32)).shape == (2, 10)


def test_the_published_model_has_its_parameters() -> None:
    with torch.device("meta"):
        net = CNN(10, 3, 529, kernel_size=32, padding=0, feature_size=4)
    assert sum(p.numel() for p in net.parameters()) == 30_611_338


def test_the_cnn_takes_sixteen_pixels_or_more() -> None:
    CNN(10, 1, 16)
    with pytest.raises(ValueError, match="images of 15 pixels shrink to nothing in 4 convolutions"):
        CNN(10, 1, 15)


@pytest.mark.parametrize(("net", "message"), [
    (partial(TorchvisionModel, name="alexnet"), "data.image_size: got 8; this model takes, for example, 64 pixels"),
    (lambda *_: nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10)), "this model takes, for example, 28 pixels"),
    (lambda *_: nn.Linear(5, 10), "model.net: "),
])  # fmt: skip
def test_a_wrong_image_size_is_refused_with_a_usual_one(net: NetCallable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageTask(net, 10, 1, 8, [0.5], [0.5])


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "googlenet"])
def test_torchvision_models_take_grey_images(name: str) -> None:
    assert TorchvisionModel(7, 1, 64, name).eval()(torch.rand(2, 1, 64, 64)).shape == (2, 7)
