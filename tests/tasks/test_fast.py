"""The whitened CNN, its optimizer, and the task that joins them."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from conftest import Fit
from torch import nn
from torch.nn import functional as F

from project.engine.loading import ImageDataModule
from project.fit import main
from project.models import CNN, WhitenedCNN
from project.tasks import FastClassifier, LinearDecay, Muon
from project.tasks.muon import orthogonal, orthogonal_updates

MODEL = ["--model=whitened_cnn", "--model.net.widths=[32,64]", "--data.batch_size=25"]


def images(count: int = 500) -> torch.Tensor:
    """Noise whose neighbouring pixels and channels are correlated, (N, 3, 12, 12)."""
    noise = torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return noise.cumsum(2).cumsum(3) + noise.sum(1, keepdim=True)


def test_whitened_patches_are_uncorrelated_and_of_equal_variance() -> None:
    net = WhitenedCNN(10, 3, 12, widths=(8, 16))
    net.whiten(images())
    outputs = net.whitening(images()).transpose(0, 1).flatten(1)
    half = len(outputs) // 2
    torch.testing.assert_close(outputs[:half], -outputs[half:])
    torch.testing.assert_close(outputs[:half].cov(), torch.eye(half), atol=0.02, rtol=0)


def test_an_image_and_its_mirror_image_have_the_same_logits_in_evaluation() -> None:
    net, given = WhitenedCNN(10, 3, 12, widths=(8, 16)).eval(), images(4)
    torch.testing.assert_close(net(given), net(given.flip(3)))
    assert not torch.allclose(net.train()(given), net(given.flip(3)))


def test_six_views_are_the_image_and_two_shifts_with_half_of_the_weight_and_their_mirror_images() -> None:
    net, given = WhitenedCNN(10, 3, 12, widths=(8, 16), views=1).eval(), images(4)
    padded = F.pad(given, (1, 1, 1, 1), "reflect")
    views = {given: 0.5, padded[:, :, :12, :12]: 0.25, padded[:, :, 2:14, 2:14]: 0.25}
    expected = sum(weight * (net(view) + net(view.flip(3))) / 2 for view, weight in views.items())
    net.views = 6
    torch.testing.assert_close(net(given), expected)


@pytest.mark.parametrize("shape", [(16, 72), (72, 16), (16, 16)])
def test_an_orthogonal_update_has_the_directions_of_the_gradient_with_equal_lengths(shape: tuple[int, int]) -> None:
    gradients = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(gradients, full_matrices=False)
    for lengths in left.mT @ orthogonal(gradients, iterations=5) @ right.mT:
        assert (lengths - lengths.diag().diag()).abs().max() < 1e-4
        assert 0.6 < lengths.diag().min() <= lengths.diag().max() < 1.3


def test_updates_of_one_padded_batch_are_those_of_each_filter_alone() -> None:
    random = torch.Generator().manual_seed(0)
    updates = [torch.randn(shape, generator=random) for shape in [(8, 3, 3, 3), (8, 3, 3, 3), (16, 8, 3, 3), (90, 9)]]
    alone = [orthogonal(one.flatten(1).unsqueeze(0)).view(one.shape) for one in updates]
    for pad in (True, False):
        torch.testing.assert_close(orthogonal_updates(updates, pad=pad), alone, atol=1e-5, rtol=1e-4)


def test_muon_keeps_the_norm_of_filters_and_updates_the_rest_as_sgd() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(2))
    net(images(2))
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(2))
    other(images(2))
    other.load_state_dict(net.state_dict())
    sgd = {"orthogonal": False, "momentum": 0.85, "weight_decay": 0.01}
    muon = Muon([{"params": [net[0].weight]}, {"params": [net[0].bias, *net[2].parameters()], **sgd}], lr=0.01)
    plain = torch.optim.SGD(
        [other[0].bias, *other[2].parameters()], lr=0.01, momentum=0.85, weight_decay=0.01, nesterov=True
    )
    for _ in range(3):
        for each, optimizer in ((net, muon), (other, plain)):
            optimizer.zero_grad()
            each(images(8)).square().mean().backward()
            optimizer.step()
        other[0].weight.data.copy_(net[0].weight)
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    update = muon.state[net[0].weight]["momentum"]
    assert update.shape == net[0].weight.shape
    assert net[0].weight.norm().item() == pytest.approx(8**0.5, rel=0.02)


def test_muon_refuses_vectors_and_keeps_filters_of_zeros() -> None:
    filters = nn.Parameter(torch.zeros(2, 3, 2, 2))
    with pytest.raises(ValueError, match=r"got a parameter of shape \(2,\).*orthogonal: false"):
        Muon([filters, nn.Parameter(torch.zeros(2))])
    muon = Muon([filters])
    filters.grad = torch.ones_like(filters)
    muon.step()
    assert filters.isfinite().all() and filters.abs().sum() > 0


def make_task(net: type[nn.Module] = WhitenedCNN, **options: float) -> FastClassifier:
    return FastClassifier(
        net=net, num_classes=10, in_channels=3, image_size=32, mean=[0.5] * 3, std=[0.5] * 3, optimizer=Muon, **options
    )


def test_each_trained_parameter_is_in_one_group() -> None:
    task = make_task()
    grouped = [id(one) for group in task.parameter_groups() for one in group["params"]]
    assert sorted(grouped) == sorted(id(one) for one in task.parameters() if one.requires_grad)
    assert [group["lr"] for group in task.make_optimizer().param_groups] == pytest.approx([0.24, 105.6, 105.6, 1.656])
    with pytest.raises(ValueError, match=r"got CNN; FastClassifier needs project\.models\.WhitenedCNN"):
        make_task(CNN)
    with pytest.raises(ValueError, match=r"^model\.whitening_share: got 0; it must be in \(0, 1\]"):
        make_task(whitening_share=0)


def test_rates_fall_to_zero_and_those_of_the_whitening_earlier() -> None:
    task = make_task(whitening_share=0.25)
    optimizer = task.make_optimizer()
    schedule = LinearDecay(optimizer, 8)
    shares = []
    for _ in range(9):
        shares.append([group["lr"] / group["initial_lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    filters, whitening, biases, head = zip(*shares, strict=True)
    assert [*filters, *biases, *head] == pytest.approx(3 * [1 - step / 8 for step in range(9)])
    assert whitening == pytest.approx([1, 0.5, 0, 0, 0, 0, 0, 0, 0])
    (bias,) = (group["params"] for group in optimizer.param_groups if group["name"] == "whitening")
    assert bias == [task.net.whitening.bias]


def test_the_images_that_whiten_are_spread_over_train() -> None:
    task, data = make_task(), Mock(spec=ImageDataModule, batch_size=100)
    data.sizes.return_value = {"train": 6000}
    data.fetch.return_value = images(4), torch.zeros(4)
    task._trainer = SimpleNamespace(datamodule=data, world_size=1, accumulate_grad_batches=1)
    task.setup("fit")
    (_, chosen), _ = data.fetch.call_args
    assert chosen.tolist() == list(range(0, 6000, 3))


@pytest.mark.faults
def test_digits_are_learned_in_two_epochs(workplace: Path) -> None:
    main([*MODEL, "--max_epochs=2", "--trainer.enable_progress_bar=false"])
    found = Fit(workplace, 0, "").run.data.metrics
    assert found["test/accuracy"] > 0.85
    # 25 images instead of 2,000 per step
    assert found["lr/head"] / found["lr/filters"] == pytest.approx(6.9 * 25 / 2000)
    assert {"lr/filters", "lr/whitening", "lr/biases", "lr/head"} <= found.keys()
