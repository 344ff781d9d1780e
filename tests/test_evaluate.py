import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import tiny
import torch
from commands import free_port
from conftest import ROOT, Fit, at, at_copy, copy_store, made_once, run_ranks
from lightning import LightningDataModule, LightningModule
from mlflow import MlflowClient
from pyarrow import parquet
from runs import ExampleRuns, fitted
from tiny import COMPLETE, TINY
from torch import Tensor, nn
from torch.utils.data import DataLoader

from project.engine.checkpoints.retention import keep_only_weights
from project.engine.evaluation import Evaluation
from project.engine.inference.evaluation_job import EvaluationJob
from project.engine.loading import ImageArray, Split
from project.engine.tracking import store
from project.engine.tracking.evaluation_logger import EvaluationLogger
from project.engine.tracking.recovery import dead_spools, recover
from project.evaluate import main as evaluate
from project.fit import main as fit
from project.sync import main as sync

CSV = {
    "test/per_class.csv",
    "test/predictions.parquet",
    "test/resamples.parquet",
    "test/confusion_matrix.png",
    "test/worst_mistakes.png",
}


class Darker(tiny.Tiny):
    """The images and classes of `Tiny` under another name, with another mean and deviation."""

    name = "darker"
    native_mean, native_std = (0.1,), (0.9,)


class Named(tiny.Tiny):
    """Other classes."""

    class_names = ("night", "day")


class Large(tiny.Tiny):
    """The images of `Tiny`, twice as large."""

    name = "large"
    native_size = 16

    def load(self, split: Split) -> ImageArray:
        small = super().load(split)
        return ImageArray(small.images.repeat_interleave(2, 2).repeat_interleave(2, 3), small.targets)


class Coloured(tiny.Tiny):
    """The images of `Tiny` in three equal channels, under another name."""

    name = "coloured"
    native_channels, native_mean, native_std = 3, (0.5,) * 3, (0.5,) * 3

    def load(self, split: Split) -> ImageArray:
        grey = super().load(split)
        return ImageArray(grey.images.expand(-1, 3, -1, -1), grey.targets)


class Dictionaries(LightningDataModule):
    """y = 2x, in batches that are dictionaries."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([{"x": torch.tensor([n / 9]), "y": torch.tensor([2 * n / 9])} for n in range(9)], 4)

    val_dataloader = test_dataloader = train_dataloader


class Slope(LightningModule):
    """A plain module whose steps return the outputs, and which calls a method of Lightning's CSVLogger."""

    monitor, mode = "val_loss", "min"

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return (self.linear(batch["x"]) - batch["y"]).square().mean()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        assert self.logger is not None
        self.logger.experiment.log_metrics({"batch": batch_idx}, 0)
        Path(str(self.trainer.log_dir), "file.txt").touch()
        self.log("val_loss", self.training_step(batch, 0), batch_size=len(batch["x"]))
        outputs: Tensor = self.linear(batch["x"])
        return outputs

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class WithoutTest(tiny.Tiny):
    """No test split."""

    name = "tiny"

    def load(self, split: Split) -> ImageArray | None:  # type: ignore[override]
        return None if split == "test" else super().load(split)


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[str]:
    """A run in the store of the current folder."""

    def train(folder: Path) -> str:
        with at(folder):
            return fitted(*TINY, "--max_epochs=2")

    folder, run_id = made_once(tmp_path_factory, "evaluated", train)
    with at_copy(folder, tmp_path):
        yield run_id


def metrics() -> dict[str, float]:
    found: dict[str, float] = Fit(Path.cwd(), 0, "").run.data.metrics
    return found


def test_an_evaluation_repeats_the_scores_of_the_fit_to_the_last_digit(workplace: Path) -> None:
    fit([*COMPLETE, "--max_epochs=2", "--trainer.callbacks=EMAWeightAveraging"])
    before = Fit(workplace, 0, "").run
    evaluate(["latest"])
    evaluate([before.info.run_id[:10], "--split=val"])
    after = Fit(workplace, 0, "").run
    for name in ("loss", "accuracy"):
        assert after.data.metrics[f"eval/test/{name}"] == before.data.metrics[f"test/{name}"]
        assert after.data.metrics[f"eval/val/{name}"] == before.data.metrics[f"best/val/{name}"]
    assert (after.info.status, after.info.end_time) == (before.info.status, before.info.end_time)
    assert after.data.params == before.data.params
    assert before.data.metrics.items() <= after.data.metrics.items()
    assert Fit(workplace, 0, "").artifacts("eval") == {f"eval/{path}" for path in CSV} | {
        f"eval/{path.replace('test/', 'val/')}" for path in CSV
    } | {"eval/test/per_class_accuracy.csv", "eval/val/per_class_accuracy.csv"}
    assert not list(Path("mlruns/spool").glob("*"))
    check_predictions(after.info.run_id)


def check_predictions(run_id: str) -> None:
    """The predictions are in the order of the data."""
    samples = predictions(run_id)
    assert samples["index"] == list(range(8))
    assert samples["label"] == [0, 1] * 4
    assert [samples["true_class"][n] for n in (0, 1)] == ["dark", "bright"]
    right = [c == t for c, t in zip(samples["class"], samples["true_class"], strict=True)]
    assert sum(right) / 8 == metrics()["eval/test/accuracy"]
    assert samples["probability"] == [max(p) for p in zip(samples["p/dark"], samples["p/bright"], strict=True)]


def predictions(run_id: str) -> dict[str, list[Any]]:
    path = MlflowClient().download_artifacts(run_id, "eval/test/predictions.parquet")
    columns: dict[str, list[Any]] = parquet.read_table(path).to_pydict()
    return columns


@pytest.mark.parametrize(("name", "kind"), [
    ("darker", Darker),
    pytest.param("large", Large, marks=pytest.mark.faults),
    pytest.param("coloured", Coloured, marks=pytest.mark.faults),
])  # fmt: skip
def test_other_data_keep_the_preprocessing_of_the_run(name: str, kind: type, run: str) -> None:
    evaluate([run, f"--data={__name__}.{kind.__name__}"])
    found = metrics()
    # Mean, deviation, size and channels are those of the training. Halving doubled pixels with antialiasing blurs them.
    assert found[f"eval/{name}/test/loss"] == pytest.approx(found["test/loss"], rel=0.1 if name == "large" else 0)
    assert "eval/test/loss" not in found


def test_the_samples_that_are_scored_are_counted(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate([run, "--trainer.limit_test_batches=1"])
    assert "eval/test: 4 samples" in capsys.readouterr().out


def test_a_trial_that_kept_only_its_weights_can_be_evaluated(run: str) -> None:
    keep_only_weights(store.checkpoint_folder(run))
    evaluate([run])
    found = metrics()
    assert found["eval/test/loss"] == found["test/loss"]


def test_without_a_test_split_the_validation_is_scored(run: str) -> None:
    evaluate([run, f"--data={__name__}.WithoutTest"])
    found = metrics()
    assert found["eval/tiny/val/loss"] == found["best/val/loss"]


def test_any_task_has_intervals_and_a_plain_module_has_its_metrics(
    example_runs: ExampleRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    client = store.connect()
    found = client.get_run(example_runs.regression).data.metrics
    for name in ("loss", "mae", "r2"):
        assert found[f"eval/test/{name}"] == found[f"test/{name}"]
    assert found["eval/test/mae_low"] < found["test/mae"] < found["eval/test/mae_high"]
    samples = predictions(example_runs.regression)
    errors = [abs(p - t) for p, t in zip(samples["prediction"], samples["target"], strict=True)]
    assert sum(errors) / len(errors) == pytest.approx(found["test/mae"], rel=1e-5)
    capsys.readouterr()
    evaluate([example_runs.tabular])
    found = client.get_run(example_runs.tabular).data.metrics
    assert found["eval/val_accuracy"] == found["best/val_accuracy"]
    assert "the evaluation lacks what the model does not declare: intervals" in capsys.readouterr().out


def test_a_module_that_calls_its_own_logger_is_scored_on_validation(workplace: Path) -> None:
    logger = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs", "--trainer.limit_test_batches=0"]
    fit([f"--data={__name__}.Dictionaries", f"--model={__name__}.Slope", "--max_epochs=1", *logger])
    assert Path("logs/lightning_logs/version_0/file.txt").exists()


def test_a_plain_module_may_have_batches_of_any_form(workplace: Path) -> None:
    logger = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs"]
    fit([f"--data={__name__}.Dictionaries", f"--model={__name__}.Slope", "--max_epochs=1", *logger])
    evaluate(["latest"])
    assert metrics()["eval/val_loss"] == metrics()["val_loss"]


@pytest.mark.faults
def test_two_processes_store_the_same_predictions_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    fit([*TINY, "--max_epochs=2"])
    evaluate(["latest"])
    run_id = Fit(tmp_path, 0, "").run.info.run_id
    alone, score = predictions(run_id), metrics()["eval/test/loss"]
    options = ["latest", "--strategy=ddp", "--devices=2"]
    run_ranks("project.evaluate", *options, folder=tmp_path, environment={"PYTHONPATH": f"{ROOT}:{ROOT}/tests"})
    together = predictions(run_id)
    assert together["index"] == alone["index"]
    assert together["p/dark"] == pytest.approx(alone["p/dark"], rel=1e-5)
    assert metrics()["eval/test/loss"] == pytest.approx(score, rel=1e-5)


def test_what_the_store_refuses_is_kept_and_the_run_stays_finished(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    ended = Fit(tmp_path, 0, "").run.info.end_time
    logger = EvaluationLogger(run, step=3)
    logger.prefix = "eval/"
    logger.log_metrics({"test/loss": 0.5})
    logger.log_text("text", "test/note.txt")
    logger.deliver(MlflowClient(f"http://127.0.0.1:{free_port()}"), "FINISHED", ended)
    for spool in dead_spools():
        assert not recover(store.connect(), spool)
    done = Fit(tmp_path, 0, "")
    assert done.run.data.metrics["eval/test/loss"] == 0.5
    assert (done.run.info.status, done.run.info.end_time) == ("FINISHED", ended)
    assert done.text("eval/test/note.txt") == "text"


def test_an_evaluation_is_kept_if_the_store_goes_away_while_it_runs(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    dead, store_of_job = f"http://127.0.0.1:{free_port()}", EvaluationJob.store

    def without_server(job: EvaluationJob, added: Evaluation) -> None:
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", dead)
            store_of_job(job, added)

    monkeypatch.setattr(EvaluationJob, "store", without_server)
    evaluate([run])
    assert "eval/test/loss" not in metrics()
    for spool in dead_spools():
        assert not recover(store.connect(), spool)
    assert "eval/test/loss" in metrics()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)


def _damage(folder: Path) -> None:
    (best,) = folder.glob("best-*.ckpt")
    content = bytearray(best.read_bytes())
    content[len(content) // 2] ^= 0xFF
    best.unlink()
    best.write_bytes(content)


@pytest.mark.parametrize(("damage", "message"), [
    (_remove, "has no best checkpoint in"),
    (_damage, "is damaged"),
])  # fmt: skip
def test_a_run_without_its_checkpoint_is_refused(
    damage: Callable[[Path], None], message: str, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(store.checkpoint_folder(run))
    refused(["latest"], message, capsys)


def refused(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        evaluate(argv)
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert message in error
    assert len(error.splitlines()) <= 3


def test_bad_input_is_refused_in_one_line(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, message in [
        (["nothing"], "got run 'nothing'"),
        (["best:tin"], "did you mean best:tiny?"),
        ([], "RUN"),
        (["--split", "val"], "give RUN before all options"),
        (["latest", "--split", "train"], "--split: invalid choice: 'train' (choose from"),
        (["latest", "--splt", "val"], "did you mean --split?"),
        (["latest", "--data.batch_siz", "3"], "did you mean --data.batch_size?"),
        (["latest", "--model.label_smoothing", "0"], "belongs to the training"),
        (["latest", "--max_epochs", "3"], "belongs to the training"),
        (["latest", "--trainer.max_epochs", "3"], "belongs to the training"),
        (["latest", "--trainer.limit_train_batches=2"], "belongs to the training"),
        (["latest", "--data.augmentation.cutout", "8"], "belongs to the training"),
        (["latest", "--data.val_fraction", "0.2"], "belongs to the training"),
        (["latest", "--resume", "x"], "belongs to the training"),
        (["latest", "--rerun", "x"], "belongs to the training"),
        (["latest", "--devices", "2"], "add --strategy ddp"),
        (["latest", "--accelerator", "tpu"], "got tpu"),
        (["latest", "--data", "nist"], "did you mean mnist?"),
        (["latest", f"--data={__name__}.Named"], "has class_names night, day, but the model of run"),
        (["latest", "--data.image_size=16"], "has image_size 16, but the model of run"),
        (["latest", f"--data={__name__}.WithoutTest", "--split=test"], "the data have no test split; give --split val"),
        (["latest", "--trainer.limit_test_batches=0"], "got 0"),
        (["latest", "--trainer.limit_test_batches=0.1"], "got 0.1, which leaves none of the 2 batches of test"),
    ]:
        refused(argv, message, capsys)
    assert not [name for name in metrics() if name.startswith("eval/")]
    other = mlflow.MlflowClient().create_run("0").info.run_id
    refused([other], "still running", capsys)
    mlflow.MlflowClient().set_terminated(other)
    refused([other], "was not made by project.fit", capsys)
    MlflowClient().set_tag(other, "best.run", "abc")
    refused([other], "it is the run of a study, whose best trial is abc", capsys)


def test_an_empty_folder_gets_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    refused(["latest"], "start from the folder of the run", capsys)
    with pytest.raises(SystemExit, match="2"):
        sync([])
    assert not list(tmp_path.iterdir())


def test_an_evaluation_starts_without_the_data_of_the_training(run: str) -> None:
    checkpoint = next(store.checkpoint_folder(run).glob("best-*"))
    given = torch.load(checkpoint, weights_only=True)["given_by_data"]
    assert given == {"num_classes": 2, "class_names": ["dark", "bright"], "in_channels": 1, "image_size": 8,
                     "mean": [0.5], "std": [0.25]}  # fmt: skip
