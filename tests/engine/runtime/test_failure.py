"""The last lines of a fit that fails: the user's frame, the run, how to resume, and the error in one line."""

import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from commands import Command
from conftest import Fit, clean_environment
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loops import training_epoch_loop
from lightning.pytorch.strategies import ddp
from mlflow import MlflowClient
from tiny import TINY, Tiny, TinyTask
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset

from project.engine.runtime.failure import failure, needs_traceback
from project.engine.tracking.logger import MLflowLogger
from project.engine.training import fit_run
from project.fit import main

MOST_LINES = 12
FAILING = [*TINY, "--model.class_path=test_failure.Failing", "--max_epochs=2"]
DDP = ["--strategy=ddp", "--devices=2", "--trainer.accelerator=cpu"]


class Failing(TinyTask):
    """Its sixth step fails, on all ranks or on that of `FAILING_RANK`; or it is killed there."""

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        rank = os.environ.get("FAILING_RANK")
        if self.global_step == 3 and rank in (None, os.environ.get("LOCAL_RANK", "0")):
            if "KILLED" in os.environ:
                os.kill(os.getpid(), 9)
            raise RuntimeError("my loss is wrong,\nin two lines")
        step: dict[str, Tensor] = super().training_step(batch, batch_idx)
        return step


def last_lines(error: BaseException) -> list[str]:
    return failure(error).splitlines()


def test_an_error_in_a_fit_ends_with_its_place_its_run_and_how_to_resume(workplace: Path) -> None:
    with pytest.raises(RuntimeError, match="my loss is wrong") as raised:  # not replaced: callers may handle it
        main([*FAILING, "--trainer.limit_train_batches=2"])
    run_id, lines = Fit(workplace, 0, "").run.info.run_id, last_lines(raised.value)
    assert re.fullmatch(
        r"error: .*test_failure.py:\d+, training_step: RuntimeError: my loss is wrong, in two lines", lines[-1]
    )
    assert len(lines) <= MOST_LINES
    assert f"  {run_id}" in lines
    assert f"continue with: python -m project.fit --resume {run_id}" in lines
    named = lines[lines.index("traceback") + 1].strip()
    assert "optimizer_step" in (workplace / named).read_text()


def test_only_an_error_that_its_message_does_not_explain_needs_a_traceback() -> None:
    with pytest.raises(ValueError, match="got 0") as ours:
        Tiny(batch_size=0)
    with pytest.raises(ValueError, match="invalid literal") as others:
        Tiny(batch_size=int("0.5"))
    with pytest.raises(MisconfigurationException) as lightnings:
        Trainer(max_epochs=-5)
    assert [needs_traceback(one.value) for one in (ours, others, lightnings)] == [False, True, False]


def test_libraries_still_raise_the_errors_that_have_remedies(workplace: Path) -> None:
    with pytest.raises(ValueError, match="total_steps") as raised:
        OneCycleLR(torch.optim.SGD([torch.zeros(1)], 0.1), 1.0, total_steps=-1)
    texts = []
    owners: tuple[Any, ...] = (MlflowClient(), MLflowLogger("tiny", "run"))
    for owner in owners:
        with pytest.raises(AttributeError, match="log_image_grid") as missing:
            owner.log_image_grid  # noqa: B018
        texts.append(str(missing.value))
    with pytest.raises(ValueError, match="Expected more") as single:
        torch.nn.BatchNorm1d(2)(torch.zeros(1, 2))
    sources = map(inspect.getsource, (training_epoch_loop, ddp))
    texts += [torch.OutOfMemoryError.__name__, str(single.value), *sources, str(raised.value)]
    for part, text in zip(fit_run._REMEDIES, texts, strict=True):
        assert part in text


class Large(TinyTask):
    """Needs more memory than a GPU has for a step of four images, or for a validation, unless it is in bf16.

    Args:
        at: Number of steps before.
        stage: `train` or `val`.
    """

    def __init__(self, *args: Any, at: int = 3, stage: str = "train", **options: Any) -> None:
        super().__init__(*args, **options)
        self.at, self.stage = at, stage

    def _allocate(self, stage: str, batch: Any) -> None:
        too_large = len(batch[0]) > 2 and not torch.is_autocast_enabled("cpu")
        if stage == self.stage and self.global_step == self.at and too_large:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        self._allocate("train", batch)
        step: dict[str, Tensor] = super().training_step(batch, batch_idx)
        return step

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._allocate("val", batch)
        super().validation_step(batch, batch_idx)


SMALLER = ["--data.batch_size=2", "--trainer.accumulate_grad_batches=2"]
BF16 = ["--precision=bf16-mixed"]
HALF = ["--trainer.val_check_interval=0.5"]


@pytest.mark.parametrize(
    ("options", "resumes", "remedies", "refused"),
    [
        pytest.param(["--model.at=0"], False, [SMALLER], [], id="no-checkpoint"),
        pytest.param(["--model.at=0"], False, [BF16], [], id="no-checkpoint-bf16", marks=pytest.mark.faults),
        *(
            pytest.param(*row, id=name, marks=pytest.mark.faults)
            for name, row in {
                "first-step-of-an-epoch": (["--model.at=4"], True, [SMALLER, BF16], []),
                "validation": (["--model.at=8", "--model.stage=val"], True, [SMALLER, BF16], []),
                "step": (["--model.at=6"], True, [BF16], SMALLER),
                "step-after-half": (["--model.at=7", *HALF], True, [BF16], SMALLER),
                "validation-after-half": (["--model.at=6", "--model.stage=val", *HALF], True, [BF16], SMALLER),
            }.items()
        ),
    ],
)
def test_a_remedy_that_is_named_if_memory_is_not_enough_is_accepted(
    options: list[str], resumes: bool, remedies: list[list[str]], refused: list[str], workplace: Path
) -> None:
    command = [*TINY, "--model.class_path=test_failure.Large", "--max_epochs=2", *options]
    for remedy in remedies:
        with pytest.raises(torch.OutOfMemoryError) as raised:
            main(command)
        run_id = str(raised.value.__notes__[0].splitlines()[1].strip())
        *notes, last = last_lines(raised.value)
        assert last.endswith(": OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
        assert (f"continue with: python -m project.fit --resume {run_id}" in notes) == resumes
        (line,) = (line for line in notes if line.startswith("use less memory: "))
        assert "--precision bf16-mixed" in line
        assert "a smaller --data.batch_size" in line
        if refused:
            with pytest.raises(SystemExit, match="2"):
                main(["--resume", run_id, *refused])
        main(["--resume", run_id, *remedy] if resumes else [*command, *remedy])
        finished = next(run for run in Fit(workplace, 0, "").runs if run.info.status == "FINISHED")
        assert (finished.info.run_id == run_id) == resumes
        history = Fit(workplace, 0, "").client.get_metric_history(finished.info.run_id, "val/loss")
        assert [metric.step + 1 for metric in history] == ([2, 4, 6, 8] if HALF[0] in options else [4, 8])
        Fit(workplace, 0, "").client.delete_run(finished.info.run_id)


class Unscored(TinyTask):
    """Its test fails if `FAILS` is set."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        if "FAILS" in os.environ:
            raise RuntimeError("my test is wrong")
        super().test_step(batch, batch_idx)


@pytest.mark.faults
def test_an_error_in_an_evaluation_ends_with_its_place(workplace: Path) -> None:
    main([*TINY, "--model.class_path=test_failure.Unscored", "--max_epochs=1"])
    environment = clean_environment() | {"FAILS": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = Command("project.evaluate", "latest", folder=workplace, environment=environment)
    output, _ = command.communicate()
    assert command.wait() == 1
    *above, last = output.splitlines()
    assert re.fullmatch(r"error: .*test_failure.py:\d+, test_step: RuntimeError: my test is wrong", last)
    assert "Traceback (most recent call last):" in above


class Unreadable(Dataset[Tensor]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        raise KeyError(f"label {index}")


def test_an_error_in_a_loading_process_names_the_file_and_the_line() -> None:
    with pytest.raises(KeyError) as raised:
        next(iter(DataLoader(Unreadable(), num_workers=1)))
    lines = last_lines(raised.value)
    assert re.fullmatch(r"error: .*test_failure.py:\d+, __getitem__: KeyError: .*label 0.*", lines[-1])
    assert len(lines) <= MOST_LINES


def test_an_error_of_a_library_names_the_call_of_the_user() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.nn.Linear(2, 2)(torch.zeros(3, 3))
    lines = last_lines(raised.value)
    assert re.fullmatch(r"error: .*test_failure.py:\d+, test_\w+: RuntimeError: .*mat1 and mat2 .*", lines[-1])
    assert "site-packages" not in "".join(lines)
    with pytest.raises(OSError, match="Failed to open") as raised_in_cython:
        pyarrow.OSFile("/nowhere/file")
    assert re.match(r"error: .*test_failure.py:\d+, test_\w+: FileNotFound", last_lines(raised_in_cython.value)[-1])


@pytest.mark.faults
@pytest.mark.parametrize(
    ("options", "environment", "last"),
    [
        ([], {}, r"error: .*test_failure.py:\d+, training_step: RuntimeError: .*"),
        (DDP, {}, r"error: .*test_failure.py:\d+, training_step: RuntimeError: .*"),
        (DDP, {"FAILING_RANK": "1"}, r"error: the process of rank 1 ended with code 1"),
        (DDP, {"FAILING_RANK": "1", "KILLED": ""}, r"error: the process of rank 1 was killed \(SIGKILL\), as .*"),
    ],
)
def test_a_command_that_fails_prints_few_lines_and_exits_with_1(
    options: list[str], environment: dict[str, str], last: str, workplace: Path
) -> None:
    folders = os.pathsep.join([clean_environment()["PYTHONPATH"], *(str(Path(__file__).parents[n]) for n in (0, 2))])
    command = Command(
        "project.fit", *FAILING, "--trainer.limit_train_batches=2", *options, folder=workplace,
        environment=clean_environment() | {"PYTHONPATH": folders, "OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip
    output, _ = command.communicate()
    lines = [line for line in output.splitlines() if line]
    assert command.wait() == 1
    assert re.fullmatch(last, lines[-1]), output
    assert "Traceback" not in output
    assert len(re.findall("(?m)^error: .*my loss is wrong", output)) == ("KILLED" not in environment)
    run = Fit(workplace, 1, "").run
    assert run.info.status == "FAILED"
    assert f"continue with: python -m project.fit --resume {run.info.run_id}" in lines or not options
