"""The start of commands in incomplete environments, such as one without a home folder."""

import os
import subprocess
import sys

import pytest
from conftest import clean_environment


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes a user that the system does not know")
def test_commands_start_without_a_home_under_an_unknown_user() -> None:
    program = "import os; os.setresuid(54321, 0, 0); import project; "
    program += "from getpass import getuser; from pathlib import Path; print(Path.home(), getuser())"
    environment = {key: value for key, value in clean_environment().items() if key not in ("HOME", "USER", "LOGNAME")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "/nonexistent 54321\n", done.stderr
