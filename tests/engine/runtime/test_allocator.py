"""The allocator keeps memory that each step allocates and frees, instead of fetching it from the system again."""

import os
import platform
import subprocess
import sys

import pytest

STEPS = 100
PROGRAM = f"""
import resource, sys
import numpy as np

def page_faults_of_steps() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({STEPS}):
        [np.ones(1 << 17) for _ in range(16)]  # 16 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "kept":
    from project.engine.runtime.allocator import keep_freed_memory
    keep_freed_memory()
page_faults_of_steps()
print(page_faults_of_steps())
"""


def page_faults(memory: str) -> int:
    """Count the pages that a process fetches from the system in its second hundred steps."""
    # These are glibc's initial thresholds. glibc raises them unless they are set.
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", PROGRAM, memory]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is configured")
def test_memory_of_a_step_is_kept_for_the_next() -> None:
    assert page_faults("returned") > 10 * STEPS
    assert page_faults("kept") < STEPS
