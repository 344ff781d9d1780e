"""The time that OpenMP's threads spin: set before torch is imported, unless the user has set it."""

import subprocess
import sys

import pytest
from conftest import clean_environment

PRINT_POLICY = "import project, os; print(os.environ['OMP_WAIT_POLICY'], os.environ.get('GOMP_SPINCOUNT'))"


@pytest.mark.skipif(sys.platform != "linux", reason="torch uses libgomp on Linux only")
@pytest.mark.parametrize(
    ("given", "policy"),
    [
        ({}, "ACTIVE 10000"),
        ({"GOMP_SPINCOUNT": "5"}, "ACTIVE 5"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "PASSIVE None"),
    ],
    ids=str,
)
def test_threads_spin_for_a_bounded_time_unless_the_user_sets_another(given: dict[str, str], policy: str) -> None:
    environment = {key: value for key, value in clean_environment().items() if "OMP" not in key} | given
    assert subprocess.check_output([sys.executable, "-c", PRINT_POLICY], env=environment, text=True).strip() == policy
