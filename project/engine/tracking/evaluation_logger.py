"""The logger of an evaluation, which adds to a run that has ended."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow import MlflowClient
from typing_extensions import override

from project.engine.tracking import store
from project.engine.tracking.delivery import Courier
from project.engine.tracking.draining import drain
from project.engine.tracking.logger import MLflowLogger
from project.engine.tracking.spool import Spool


class EvaluationLogger(MLflowLogger):
    """Logger that keeps its records, and adds all or none of them to a run at the end of an evaluation.

    Status and end of the run do not change.

    Args:
        run_id: The run.
        step: Step of all metrics: that of the evaluated checkpoint.

    Attributes:
        prefix: Start of the names of metrics and artifacts, such as `eval/`; set before the evaluation.
    """

    def __init__(self, run_id: str, step: int) -> None:
        super().__init__(experiment="", run_name="")
        self._run_id, self._step = run_id, step
        self._records: list[dict[str, Any]] = []
        self._files: TemporaryDirectory[str] | None = None
        self.prefix = ""

    @override
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run has its parameters."""

    @override
    def _append(self, **record: Any) -> None:
        if "metrics" in record:
            record["metrics"] = {f"{self.prefix}{name}": value for name, value in record["metrics"].items()}
            record["step"] = self._step
        if "file" in record:
            record["file"] = f"{self.prefix}{record['file']}"
        self._records.append(record)

    @override
    def artifact_file(self, path: str) -> Path:
        self._files = self._files or TemporaryDirectory()
        file = Path(self._files.name, f"{self.prefix}{path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def deliver(self, client: MlflowClient, status: str, end_time: int) -> None:
        """Add everything to the run; what the store does not take is kept for `project.sync`.

        Args:
            client: Client of the store.
            status: Status of the run.
            end_time: When the run ended, in milliseconds since 1970.

        Raises:
            filelock.Timeout: Another process holds the run's spool for minutes.
        """
        spool = Spool(store.spool_folder(self._run_id or ""), wait_s=store.LONGEST_REQUEST_S)
        # Other commands consider the run killed if its spool does not end with a status.
        ended = {"status": status, "time_ms": end_time}
        spool.append(ended)
        if self._files is not None:
            shutil.copytree(self._files.name, spool.files, dirs_exist_ok=True)
            self._files.cleanup()
        for record in (*self._records, ended):
            spool.append(record)
        drain(Courier(spool, client), spool)
        spool.close(remove=not spool.waiting)
