import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from project.engine.loading import EpochBatches


@given(
    size=st.integers(0, 300),
    batch_size=st.integers(1, 70),
    ranks=st.integers(1, 5),
    shuffle=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_every_image_is_used_once_and_ranks_have_equal_numbers_of_batches(
    size: int, batch_size: int, ranks: int, shuffle: bool, epoch: int
) -> None:
    size += ranks
    samplers = [EpochBatches(size, batch_size, shuffle=shuffle, rank=rank, ranks=ranks) for rank in range(ranks)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    batches = [[batch.tolist() for batch in sampler] for sampler in samplers]
    assert sorted(i for rank in batches for batch in rank for i in batch) == list(range(size))
    assert {len(rank) for rank in batches} == {len(samplers[0])}
    lengths = [len(batch) for rank in batches for batch in rank]
    assert min(lengths) >= 1
    assert max(lengths) <= max(batch_size, 1 if size % ranks == 0 else 2)
    assert all(max(map(len, rank)) - min(map(len, rank)) <= 1 for rank in batches)


def test_the_order_changes_with_the_epoch_and_repeats_with_the_seed() -> None:
    first, again = EpochBatches(50, 8, shuffle=True, seed=3), EpochBatches(50, 8, shuffle=True, seed=3)
    assert torch.equal(torch.cat(list(first)), torch.cat(list(again)))
    again.set_epoch(1)
    assert not torch.equal(torch.cat(list(first)), torch.cat(list(again)))


def test_fewer_images_than_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="got 1 images for 2 processes"):
        EpochBatches(1, 8, ranks=2)
