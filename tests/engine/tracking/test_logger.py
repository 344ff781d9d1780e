"""The start of a run by MLflowLogger, if it is interrupted or fails."""

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from project.engine.tracking import store
from project.engine.tracking.logger import MLflowLogger


class Ended(MlflowClient):
    """A client whose first request after the creation of a run ends with an error or a signal."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    def log_metric(self, *args: Any, **kwargs: Any) -> None:
        raise self._error


@pytest.mark.parametrize(("error", "status"), [(SystemExit(130), "KILLED"), (OSError("no route"), "FAILED")])
def test_a_run_that_ends_while_it_starts_is_closed(error: BaseException, status: str, workplace: Path) -> None:
    with pytest.raises(type(error)):
        MLflowLogger("digits", "run").start(Ended(error), {}, monitor="val/loss")
    client = store.connect()
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert run.info.status == status
