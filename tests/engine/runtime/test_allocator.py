"""The allocator keeps memory that each step allocates and frees, instead of fetching it from the system again."""

import os
import platform
import subprocess
import sys

import pytest

STEPS = 100
PROGRAM = f"""
import resource
import numpy as np
from project.engine.runtime.allocator import keep_freed_memory

def page_faults_of_steps() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({STEPS}):
        [np.ones(1 << 15) for _ in range(16)]  # 4 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for configure in (lambda: None, keep_freed_memory):
    configure()
    page_faults_of_steps()
    print(page_faults_of_steps())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is configured")
def test_memory_of_a_step_is_kept_for_the_next() -> None:
    """A process counts the pages that it fetches from the system in its second hundred steps."""
    # These are glibc's initial thresholds. glibc raises them unless they are set.
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, capture_output=True, text=True)
    returned, kept = map(int, done.stdout.split())
    assert returned > 10 * STEPS
    assert kept < STEPS
