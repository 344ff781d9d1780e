import pytest
import torch
from torch import nn

from project.models import CNN, TorchvisionModel
from project.tasks.sizes import accepted_sizes, refusal


def test_the_cnn_has_the_layers_of_the_article() -> None:
    net = CNN(10, 1, 32)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    linears = [m for m in net.modules() if isinstance(m, nn.Linear)]
    assert [c.out_channels for c in convolutions] == [64, 64, 128, 128]
    assert [c.kernel_size for c in convolutions] == [(3, 3)] * 4
    assert sum(isinstance(m, nn.MaxPool2d) for m in net.modules()) == 4
    assert [(m.in_features, m.out_features) for m in linears] == [(512, 512), (512, 10)]
    assert net(torch.rand(2, 1, 32, 32)).shape == (2, 10)


def test_the_published_model_has_its_parameters_and_image_sizes() -> None:
    def build(size: int) -> nn.Module:
        return CNN(10, 3, size, kernel_size=32, padding=0, feature_size=4)

    with torch.device("meta"):
        assert sum(p.numel() for p in build(529).parameters()) == 30_611_338
    assert accepted_sizes(build, 3) == "529 to 544"


def test_the_image_sizes_of_a_torchvision_model_are_determined() -> None:
    assert accepted_sizes(lambda size: TorchvisionModel(10, 3, size, "alexnet"), 3) == "63 or more"


def test_a_net_with_global_pooling_takes_every_size() -> None:
    assert accepted_sizes(lambda _: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), 3) == "1 or more"


def test_the_cnn_takes_sixteen_pixels_or_more() -> None:
    assert refusal(lambda size: CNN(10, 1, size), 1, 16) is None
    assert refusal(lambda size: CNN(10, 1, size), 1, 15) == "images of 15 pixels shrink to nothing in 4 convolutions"


def test_a_single_valid_size_between_invalid_ones_is_found() -> None:
    assert accepted_sizes(lambda _: nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10)), 1) == "28"


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "googlenet"])
def test_torchvision_models_take_grey_images(name: str) -> None:
    assert TorchvisionModel(7, 1, 64, name).eval()(torch.rand(2, 1, 64, 64)).shape == (2, 7)
