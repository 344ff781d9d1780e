"""What a trial gets of the machine."""

import pytest

from project.search.devices import Devices, gpu_ids


def test_gpus_are_lent_to_one_trial_at_a_time() -> None:
    devices = Devices(n_jobs=2, per_trial=2, cores=8, gpus=gpu_ids("3,5,6,7"))
    first, second = devices.lend(), devices.lend()
    assert {str(first), str(second)} == {str({"CUDA_VISIBLE_DEVICES": ids}) for ids in ("3,5", "6,7")}
    assert devices.lend() is None
    assert first is not None
    devices.give_back(first)
    assert devices.lend() == first
    assert devices.threads == 2


def test_more_trials_than_gpus_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--n_jobs: got 3, but 4 GPUs are enough for 2 trials of 2 devices at a time"):
        Devices(n_jobs=3, per_trial=2, cores=8, gpus=["0", "1", "2", "3"])


def test_cores_are_divided_where_there_is_no_gpu() -> None:
    devices = Devices(n_jobs=3, per_trial=1, cores=8, gpus=[])
    assert [devices.lend() for _ in range(4)] == [{}, {}, {}, None]
    assert devices.threads == 2
