"""An objective that takes no time: it returns x, unless the options name another end of its process."""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from mlflow import MlflowClient

from project.data.digits import Digits
from project.engine.runtime.devices import usable_cores
from project.engine.search.messages import Report, RunStarted, send


def main(argv: Sequence[str], callbacks: Sequence[Any]) -> None:
    """Take the place of `project.fit` in a trial's process."""
    given = dict(option.removeprefix("--").split("=") for option in argv)
    ends, number = json.loads(given["ends"]), json.loads(os.environ["MLFLOW_RUN_CONTEXT"])["trial"]
    end = ends.get(number, ends.get("-1", ""))
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "pruned":
        run = MlflowClient().create_run("0", tags=json.loads(os.environ["MLFLOW_RUN_CONTEXT"]))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        for message in (RunStarted(run.info.run_id), Report(0.5), Report(0.25)):
            send(callbacks[0]._connection, message)
        time.sleep(60)
    if end == "slow":
        time.sleep(2)
    elif end.startswith("/"):  # Wait for this file.
        while not os.path.exists(end):  # noqa: PTH110
            time.sleep(0.05)
    elif end == "shares":
        print("shares", torch.get_num_threads(), usable_cores(), Digits().workers.count(devices=2))
        time.sleep(0.3)
    elif end == "environment":
        print("environment", os.environ.get("OF_THE_SWEEP"), os.environ.get("MASTER_PORT"))
    elif end == "exit":
        sys.exit("no data")
    elif end:
        raise ValueError(end)
    callbacks[0].record({"val/accuracy": float(given.get("x", 0))})
