import torch
from hypothesis import given
from hypothesis import strategies as st

from project.engine.loading.counter_rng import (
    _hashed,
    alternating,
    independent_keys,
    integers,
    sample_keys,
    step_seed,
    uniform,
)


def test_a_draw_depends_only_on_seed_epoch_image_and_number() -> None:
    keys = sample_keys(0, 3, torch.arange(100))
    assert torch.equal(sample_keys(0, 3, torch.tensor([7, 5])), keys[[7, 5]])  # Not on the batch.
    torch.manual_seed(1)
    assert torch.equal(uniform(sample_keys(0, 3, torch.arange(100)), 2), uniform(keys, 2))  # Not on torch's generator.
    for other in (sample_keys(1, 3, torch.arange(100)), sample_keys(0, 4, torch.arange(100))):
        assert not (uniform(other, 2) == uniform(keys, 2)).any()
    assert not (uniform(keys, 1) == uniform(keys, 2)).any()


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**40), st.integers(0, 2**16))
def test_the_seed_of_a_step_is_the_hash_of_seed_step_and_rank(seed: int, step: int, rank: int) -> None:
    key = torch.zeros(1, dtype=torch.int64)
    for number in (seed, step, rank):
        key = _hashed(key + number)
    assert step_seed(seed, step, rank) == int(key) % 2**63


def test_draws_are_uniform_and_independent() -> None:
    draws = torch.stack(
        [uniform(sample_keys(0, epoch, torch.arange(20_000)), number) for epoch in (0, 1) for number in (0, 1)]
    )
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = torch.stack([row.histc(10, 0, 1) for row in draws])
    assert ((counts - 2000).abs() < 200).all()  # More than four standard deviations.
    assert (torch.corrcoef(draws) - torch.eye(4)).abs().max() < 0.03
    assert integers(sample_keys(0, 0, torch.arange(1000)), 0, 5).unique().tolist() == [0, 1, 2, 3, 4]


def test_independent_keys_share_no_draw() -> None:
    keys = sample_keys(0, 0, torch.arange(20_000))
    draws = torch.stack([uniform(k, 0) for k in (keys, independent_keys(keys, 0), independent_keys(keys, 1))])
    assert (torch.corrcoef(draws) - torch.eye(3)).abs().max() < 0.03
    assert torch.equal(independent_keys(keys, 1)[:5], independent_keys(keys[:5], 1))


def test_draws_are_made_on_the_device_of_their_keys() -> None:
    keys = sample_keys(0, 3, torch.arange(1000))
    for on_device in (keys.to("meta"), keys[:0].to("meta")):
        assert uniform(on_device, 1, 3).shape == (len(on_device), 3)
        assert uniform(on_device, 1, 3).device == on_device.device


def test_an_image_alternates_in_consecutive_epochs_whatever_its_batch() -> None:
    epochs = torch.stack([alternating(sample_keys(5, epoch, torch.arange(10_000))) for epoch in range(6)])
    assert (epochs[1:] ^ epochs[:-1]).all()
    assert 4800 < epochs[0].sum() < 5200
    assert torch.equal(alternating(sample_keys(5, 3, torch.tensor([70, 6]))), epochs[3][[70, 6]])
    other = alternating(sample_keys(6, 0, torch.arange(10_000)))
    assert 4800 < (other ^ epochs[0]).sum() < 5200
    drawn = uniform(sample_keys(5, 1, torch.arange(10_000)), 102) < 0.5
    assert 4800 < (drawn ^ epochs[1]).sum() < 5200
