"""The part of the machine that a trial gets."""

import pytest

from project.engine.search.device_pool import Devices, gpu_ids

FOUR = ["3", "5", "6", "7"]


def test_a_gpu_is_assigned_to_one_trial_at_a_time() -> None:
    devices = Devices(n_jobs=2, per_trial=2, cores=8, gpus=FOUR)
    first, second = devices.acquire(), devices.acquire()
    assert {one["CUDA_VISIBLE_DEVICES"] for one in (first, second)} == {"3,5", "6,7"}
    assert devices.free == 0
    devices.release(first)
    assert devices.acquire() == first
    assert devices.threads == 2


@pytest.mark.parametrize(("n_jobs", "cores", "threads"), [(1, 8, 8), (3, 8, 2), (4, 2, 1)])
def test_as_many_trials_as_jobs_divide_the_cores(n_jobs: int, cores: int, threads: int) -> None:
    for gpus in ([], FOUR):
        devices = Devices(n_jobs, per_trial=1, cores=cores, gpus=gpus)
        assert devices.free == n_jobs
        assert devices.threads == threads
        assert devices.acquire()["PROJECT_CPU_CORES"] == str(threads)


def test_more_trials_than_gpus_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--n_jobs: got 3, but 4 GPUs are enough for 2 trials of 2 devices at a time"):
        Devices(n_jobs=3, per_trial=2, cores=8, gpus=FOUR)


@pytest.mark.parametrize(
    ("visible", "count", "names"),
    [
        (None, 2, ["0", "1"]),
        ("", 0, []),
        ("-1", 0, []),
        ("3, 5", 2, ["3", "5"]),
        ("0,9", 1, ["0"]),  # there is no GPU 9
        ("1,-1,0", 1, ["1"]),
        ("0,0", 0, []),
        ("GPU-8d3a,GPU-17fe", 2, ["GPU-8d3a", "GPU-17fe"]),
        ("MIG-5c89,MIG-5c89,MIG-91a0", 1, ["MIG-5c89", "MIG-91a0"]),  # CUDA shows one MIG device to a process
    ],
)
def test_gpus_have_the_names_that_cuda_reads_in_the_variable(visible: str | None, count: int, names: list[str]) -> None:
    assert gpu_ids(visible, count) == names
