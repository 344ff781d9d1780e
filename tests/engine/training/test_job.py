"""The resources of a fit in this process, which it releases however it ends."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Fit
from lightning import Callback, LightningModule, Trainer
from tiny import TINY, Tiny

from project.engine.compat import close_store_connections
from project.fit import main

OPTIONS = [*TINY, "--max_epochs=1"]


class Fails(Callback):
    """A callback that raises an error in the first training step."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        raise ArithmeticError("the step failed")


class Interrupts(Callback):
    """A callback that sends SIGTERM to this process in the first training step."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


class InterruptedStep(Interrupts):
    """A callback whose step fails after the signal, as one does that waits for a compiler in the process group."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        raise RuntimeError("the compiler was killed")


class InterruptedCheck(Tiny):
    """Data whose preparation, such as a download, is interrupted by Ctrl-C."""

    def prepare_data(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


class InterruptedLibrary(Tiny):
    """Data whose preparation raises another error while it is interrupted, as a database does that cannot roll back."""

    def prepare_data(self) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except SystemExit:
            raise ValueError("this transaction cannot be rolled back") from None


def held() -> dict[str, Any]:
    """Return the resources that this process holds, by kind."""
    files = [path.resolve() for path in Path("/proc/self/fd").iterdir()]
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    return {
        "handlers": {signum: signal.getsignal(signum) for signum in signal.valid_signals()},
        "hooks": (sys.unraisablehook, sys.excepthook, threading.excepthook),
        "wakeup descriptor": wakeup,
        "threads": sorted(thread.name for thread in threading.enumerate()),
        # matplotlib never closes its fonts, and the folder of the descriptors is open while it is read.
        "descriptors": sorted(file for file in files if file.suffix != ".ttf" and file.parts[1] != "proc"),
        "environment": dict(os.environ),
    }


def fit(*options: str) -> None:
    main([*OPTIONS, *options])


def refused_option() -> None:
    with pytest.raises(SystemExit, match="2"):
        fit("--model.net.dropot=1")


def refused_data() -> None:
    with pytest.raises(SystemExit, match="2"):
        fit("--data.batch_size=5000")


def refused_store() -> None:
    with pytest.raises(SystemExit, match="2"):
        fit("--resume=nothing")


def failed() -> None:
    with pytest.raises(ArithmeticError):
        main(OPTIONS, [Fails()])


@contextmanager
def all_released() -> Iterator[None]:
    """Check that a block of code releases all the resources that it takes."""
    close_store_connections()
    gc.collect()  # Objects of earlier tests.
    before = held()
    yield
    after = held()
    for kind in before:
        assert after[kind] == before[kind], kind


@pytest.mark.parametrize(
    "run",
    [
        fit,
        refused_data,
        failed,
        *(pytest.param(run, marks=pytest.mark.faults) for run in (refused_option, refused_store)),
    ],
)
def test_a_fit_releases_all_its_resources(run: Callable[[], None], workplace: Path) -> None:
    with all_released():
        run()


@pytest.mark.parametrize(("data", "code"), [("InterruptedCheck", 130), ("InterruptedLibrary", 143)])
def test_a_signal_before_the_run_ends_in_one_line(
    data: str, code: int, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with all_released(), pytest.raises(SystemExit) as end:
        main([*OPTIONS, f"--data.class_path=test_job.{data}"])
    assert end.value.code == code
    assert capsys.readouterr() == ("", "interrupted; no run was started\n")


@pytest.mark.parametrize(("callback", "options", "outcome"), [
    (Interrupts(), [], "continue with: python -m project.fit --resume RUN"),
    pytest.param(InterruptedStep(), [], "the run has no checkpoint to resume from yet", marks=pytest.mark.faults),
    (Interrupts(), ["--trainer.logger=false"], "the run is not tracked, and cannot be resumed"),
], ids=["training", "failed step", "untracked"])  # fmt: skip
def test_a_signal_in_training_ends_in_one_line(
    callback: Callback, options: list[str], outcome: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with all_released(), pytest.raises(SystemExit) as end:
        main([*OPTIONS, *options, "--trainer.enable_progress_bar=false"], [callback])
    assert end.value.code == 143
    runs = Fit(workplace, 143, "").runs
    assert [run.info.status for run in runs] == ([] if options else ["KILLED"])
    expected = outcome.replace("RUN", "".join(run.info.run_id for run in runs))
    # A store on a busy machine needs more than a second, which has its own line.
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("delivered to MLflow in ")]
    assert lines == [f"interrupted; {expected}"]


@pytest.mark.parametrize("callbacks", [pytest.param([], marks=pytest.mark.faults), [Fails()]])
def test_a_sharded_fit_destroys_its_process_group(callbacks: list[Callback], workplace: Path) -> None:
    hook = sys.excepthook
    with pytest.raises(ArithmeticError) if callbacks else nullcontext():
        main([*OPTIONS, "--strategy=fsdp", "--trainer.devices=1"], callbacks)
    assert not torch.distributed.is_initialized()
    assert sys.excepthook is hook
