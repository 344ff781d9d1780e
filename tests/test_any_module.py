"""Any LightningModule and any LightningDataModule trains, is tracked, interrupted, resumed, and swept."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from conftest import ROOT, Fit, copy_store, count_runs, run_ranks
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, LambdaCallback, ModelCheckpoint
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from project.engine.cli.command_line import CommandLine
from project.engine.cli.training_checks import check_training, try_first_step
from project.engine.data import DescribedDataModule
from project.engine.task import Task
from project.engine.training.callbacks import build_fit
from project.engine.training.stop import Interrupts
from project.fit import main
from project.sweep import main as sweep

STEPS = 8


class Line(LightningDataModule):
    """y = 2x, in eight batches."""

    def train_dataloader(self) -> DataLoader[Any]:
        x = torch.linspace(-1, 1, 4 * STEPS).unsqueeze(1)
        return DataLoader(TensorDataset(x, 2 * x), 4)


class LineWithVal(Line):
    def val_dataloader(self) -> DataLoader[Any]:
        return self.train_dataloader()


class LineInPairs(Line):
    def train_dataloader(self) -> DataLoader[Any]:
        pairs: Any = [[0, 1], [2, 3]]
        return DataLoader(super().train_dataloader().dataset, batch_sampler=pairs)


class LineWithTest(LineWithVal):
    def test_dataloader(self) -> DataLoader[Any]:
        return self.train_dataloader()


class Slope(LightningModule):
    """A module that declares nothing but its training step and its optimizer."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.linear, self.lr = nn.Linear(1, 1), lr

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = (self.linear(x) - y).square().mean()
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.lr)


def make_slope(lr: float = 0.1) -> Slope:
    return Slope(lr)


class Described(DescribedDataModule):
    """Data that declare only their name and two samples."""

    name = "line"

    def train_dataloader(self) -> DataLoader[Any]:
        return Line().train_dataloader()

    def examples(self) -> tuple[Tensor, Tensor]:
        return torch.ones(2, 1), torch.ones(2, 1)


class LinearTask(Task):
    def __init__(self, **options: Any) -> None:
        super().__init__(net=nn.Linear(1, 1), loss=nn.MSELoss(), **options)


class Validated(Slope):
    """A module whose monitored metric has a name that does not imply a direction."""

    monitor = "val_score"

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        error = (self.linear(x) - y).square().mean()
        self.log("val_score", -error, sync_dist=True)
        self.log("val_loss", error, sync_dist=True)


class Plateau(Validated):
    """A module that collects its losses, with a schedule that halves the rate after each epoch.

    No improvement reaches the threshold of the schedule.
    """

    mode = "max"
    followed = "val_loss"

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(lr)
        self.losses: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.losses.append(super().training_step(batch, batch_idx))
        return self.losses[-1]

    def on_train_epoch_end(self) -> None:
        torch.stack(self.losses)  # It fails without a batch of the epoch.
        self.losses.clear()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=1e9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": self.followed}}


class WarmPlateau(Plateau):
    """A module with two schedules of one rate, of which one follows a metric."""

    def configure_optimizers(self) -> Any:
        made = super().configure_optimizers()
        warmup = torch.optim.lr_scheduler.LinearLR(made["optimizer"], total_iters=2)
        return [made["optimizer"]], [made["lr_scheduler"], {"scheduler": warmup}]


class PlateauOfTraining(Plateau):
    """A module whose schedule follows a metric of the training epoch."""

    followed = "train_mean"

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("train_mean", loss, on_step=False, on_epoch=True)
        return loss


class MonitorsTraining(Slope):
    """A module without validation whose best checkpoint is that of the smallest training loss."""

    monitor, mode = "train_loss", "min"


class Searching(Slope):
    """A module whose optimizer computes the loss several times for a step."""

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), self.lr)


class LoggedTwice(Validated):
    """A module that logs a metric of each step and of each epoch."""

    mode = "max"

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("train_mean", loss, on_step=True, on_epoch=True)
        return loss


class Sharded(Plateau):
    """A module that shards itself, once."""

    def configure_model(self) -> None:
        assert self.device_mesh is not None
        fully_shard(self.linear, mesh=self.device_mesh["data_parallel"])

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("test_loss", self.linear(batch[0]).mean(), sync_dist=True)


class Halving(Validated):
    """A module whose schedule halves the rate after each epoch, which is Lightning's default interval."""

    mode = "max"

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), self.lr)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)]


class Noted(Slope):
    """A module that was written for Lightning's MLFlowLogger, has an MLflow run of its own, and writes a file."""

    def on_fit_start(self) -> None:
        mlflow.start_run(run_name="own")

    def on_train_end(self) -> None:
        assert self.logger is not None
        self.logger.experiment.log_text(self.logger.run_id, "y = 2x", "note.txt")
        Path(str(self.trainer.log_dir), "file.txt").write_text("y = 2x")


class Tracked(Slope):
    """A module that logs by MLflow's own functions, to a run of its own and to that of its logger."""

    def on_fit_start(self) -> None:
        mlflow.log_metric("started", 1)
        mlflow.end_run()
        mlflow.start_run(run_id=self.logger.run_id)  # type: ignore[union-attr]
        mlflow.log_metric("started", 1)


class ReadsBack(Callback):
    """A callback that reads the checkpoints that it saves."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        trainer.save_checkpoint("own.ckpt")
        torch.load("own.ckpt", weights_only=True)


class Optimized(Slope):
    """A module that reads its optimizer's class from its hyper-parameters."""

    def __init__(self, optimizer: OptimizerCallable) -> None:
        super().__init__()
        self.save_hyperparameters()

    def configure_optimizers(self) -> Any:
        return self.hparams.optimizer(self.parameters())  # type: ignore[attr-defined]


class Manual(Slope):
    """Optimizes by hand, and so returns no loss."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # type: ignore[override]
        optimizer = self.optimizers()
        loss = (self.linear(batch[0]) - batch[1]).square().mean()
        self.manual_backward(loss)
        optimizer.step()  # type: ignore[union-attr]


class Complete(Slope):
    """Makes its net when training starts, and has a callback that keeps checkpoints."""

    def __init__(self, kind: type = nn.Linear) -> None:  # Its argument has the name of one of the engine.
        super().__init__()
        self.save_hyperparameters()
        del self.linear

    def configure_model(self) -> None:
        self.linear = self.hparams.kind(1, 1)  # type: ignore[attr-defined]

    def configure_callbacks(self) -> list[Callback]:
        return [ModelCheckpoint(filename="own")]


class WithoutOptimizer(Slope):
    def configure_optimizers(self) -> None:
        return None


class Alternating(Slope):
    """Optimizes weight and bias by turns, as the two nets of a GAN, each with a schedule that it steps by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # type: ignore[override]
        number = batch_idx % 2
        optimizer, schedule = self.optimizers()[number], self.lr_schedulers()[number]  # type: ignore[index]
        optimizer.zero_grad()
        self.manual_backward((self.linear(batch[0]) - batch[1]).square().mean())
        optimizer.step()
        schedule.step()  # type: ignore[call-arg]

    def configure_optimizers(self) -> Any:
        optimizers = [torch.optim.SGD([parameter], self.lr) for parameter in self.parameters()]
        return optimizers, [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) for optimizer in optimizers]


class WithoutStep(LightningModule):
    def configure_optimizers(self) -> None:
        return None


class WithLoaders(Validated):
    """A module with its own data, of which two parts are validated."""

    monitor, mode = None, None

    def train_dataloader(self) -> DataLoader[Any]:
        return Line().train_dataloader()

    def val_dataloader(self) -> list[DataLoader[Any]]:
        return [self.train_dataloader(), self.train_dataloader()]

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)


class Unlogged(Slope):
    monitor = "val_loss"


class Misdirected(Validated):
    mode = "maximum"


class Raising(Slope):
    def __init__(self) -> None:
        raise RuntimeError("no such thing")


class Kept(Slope):
    """A module with a state that a checkpoint cannot hold."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["kind"] = nn.ReLU


class OfItsLength(Slope):
    """A module whose schedule is impossible in a training of one epoch."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs - 1)]  # type: ignore[operator]


class HalvedByEpoch:
    """A schedule that is not one of torch, and gets the epoch, as those of timm."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.epoch = optimizer, 0

    def step(self, epoch: int) -> None:
        self.epoch = epoch
        for group in self.optimizer.param_groups:
            group["lr"] = 0.1 * 0.5**epoch

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]


class ByItsOwnSchedule(Slope):
    """A module that steps its schedule in its own way."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [HalvedByEpoch(optimizer)]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step(epoch=self.current_epoch + 1)


class Renaming(torch.optim.SGD):
    """An optimizer whose argument has another name than the setting of its groups."""

    def __init__(self, parameters: Any, lr: float, decay: float) -> None:
        torch.optim.Optimizer.__init__(
            self, parameters, torch.optim.SGD([torch.zeros(1)], lr, weight_decay=decay).defaults
        )


class StepsASchedule(Slope):
    """A module that steps a schedule of torch itself."""

    def __init__(self, lr: float = 0.1, decay: float = 0.0) -> None:
        super().__init__(lr)
        self.decay = decay

    def configure_optimizers(self) -> Any:
        optimizer = Renaming(self.parameters(), self.lr, self.decay)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step()


class UnfreezeBias(BaseFinetuning):
    """A callback that gives the optimizer the bias when training starts."""

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        pl_module.bias.requires_grad = False  # type: ignore[union-attr]

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        if epoch == 0:
            pl_module.bias.requires_grad = True  # type: ignore[union-attr]
            optimizer.add_param_group({"params": [pl_module.bias], "lr": 0.01})


class Slowing(torch.optim.SGD):
    """An optimizer that counts its steps in its groups, as a schedule-free one."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr, momentum=0.9)
        self.defaults["count"] = self.param_groups[0]["count"] = 0

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["count"] += 1
            group["lr"] = 0.1 / group["count"]
        return super().step(closure)


class Finetuned(Slope):
    """A module whose callback adds a group of parameters to its optimizer, and which sets a setting by hand."""

    def on_train_epoch_end(self) -> None:
        self.optimizers().param_groups[0]["momentum"] *= 0.5  # type: ignore[union-attr]

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return (self.linear(x) + self.bias - y).square().mean()

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return Slowing(trained, self.lr)

    def configure_callbacks(self) -> list[Callback]:
        return [UnfreezeBias()]


class FinetunedTask(LinearTask):
    """A task whose optimizer has only the parameters that are not frozen."""

    @property
    def bias(self) -> Tensor:
        return self.net.bias  # type: ignore[return-value]

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [parameter for parameter in self.net.parameters() if parameter.requires_grad]}]


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.ones(4, 2, 1)


class Unsized(LightningDataModule):
    """Data that do not declare the number of their batches."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Stream(), None)


class WithoutTrain(LightningDataModule):
    pass


class WithoutBatches(Line):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.zeros(0, 1), torch.zeros(0, 1)), 4)


class WithoutFile(Line):
    def setup(self, stage: str) -> None:
        raise FileNotFoundError("there is no file lines.csv")


def of(model: type, data: type = LineWithVal) -> list[str]:
    return [f"--model=test_any_module.{model.__name__}", f"--data=test_any_module.{data.__name__}"]


def test_data_may_declare_no_more_than_their_name_and_examples(workplace: Path) -> None:
    main(["--model=test_any_module.LinearTask", "--data=test_any_module.Described", "--max_epochs=1"])
    assert Fit(workplace, 0, "").run.info.status == "FINISHED"


def test_a_module_that_declares_nothing_trains_and_keeps_its_last_checkpoint(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*of(Slope, Line), "--max_epochs=3"])
    done = Fit(workplace, 0, capsys.readouterr().out)
    assert done.run.info.status == "FINISHED"
    assert done.run.info.run_name == "Slope max_epochs=3"
    assert " do not declare: the data's digest and sizes" in done.output
    (last,) = Path("mlruns/checkpoints", done.run.info.run_id).glob("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 3 * STEPS
    assert {"train_loss", "throughput/samples_per_second"} <= set(done.run.data.metrics)
    assert "throughput/images_per_second" not in done.run.data.metrics
    with pytest.raises(SystemExit, match="2"):
        main(["--resume", "latest", "--data=test_any_module.WithoutFile", "--max_epochs=4"])
    assert "--resume: got the data test_any_module.WithoutFile, but the run used" in capsys.readouterr().err


def test_the_direction_of_its_metric_must_be_known(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(of(Validated))
    assert end.value.code == 2
    assert "--checkpoint.mode: got nothing" in capsys.readouterr().err
    main([*of(Validated), "--checkpoint.mode=max", "--max_epochs=2"])
    run = Fit(workplace, 0, "").run
    scores = [p.value for p in Fit(workplace, 0, "").client.get_metric_history(run.info.run_id, "val_score")]
    assert run.data.metrics["best/val_score"] == max(scores)


@pytest.mark.parametrize(("options", "answer"), [
    (of(WithoutStep), "No `training_step()` method defined"),
    (of(WithLoaders)[:1], "--data: got nothing, but WithLoaders has loaders of its own; add --data lightning.Lightn"),
    (of(Slope, WithoutTrain), "`train_dataloader` must be implemented"),
    (of(Slope, WithoutBatches), "--data: train has no batch"),
    (of(Slope, WithoutFile), "): there is no file lines.csv"),
    (of(Unlogged), "Unlogged.monitor: got 'val_loss' (did you mean train_loss?), which training does not log"),
    ([*of(Manual), "--trainer.gradient_clip_val=1"], "Remove `Trainer(gradient_clip_val=1)`"),
    ([*of(Manual), "--trainer.accumulate_grad_batches=2"], "Remove `Trainer(accumulate_grad_batches=2)`"),
    ([*of(Slope), "--trainer.limit_train_batches=0.1"], "limit_train_batches: got 0.1, which leaves none of the 8"),
    ([*of(Slope, LineWithTest), "--trainer.limit_test_batches=0.1"], "test_batches: got 0.1, which leaves none of"),
    ([*of(WithLoaders, LightningDataModule), "--trainer.limit_val_batches=0.1"], "0.1, which leaves none of the 8 bat"),
    ([*of(Slope, Unsized), "--trainer.val_check_interval=0.5"], "val_check_interval: got 0.5, but the data do not"),
    (of(Kept), "--model: its checkpoints cannot be read again: kind is a builtins.type; give its state as numbers"),
    ([*of(Slope, LineInPairs), "--strategy=ddp"], "--strategy: the samples of a loader cannot be divided among proces"),
    ([*of(Searching), "--strategy=ddp"], "--strategy: got several processes, but LBFGS needs one"),
    (of(Misdirected), "Misdirected.mode: got 'maximum'; give min or max"),
    (of(Raising), f"--model: making Raising fails with RuntimeError ({__file__}, line "),
    ([f"--model={__name__}.Broken"], "has no attribute 'Broken'"),
])  # fmt: skip
def test_a_module_that_cannot_train_starts_no_run(
    options: list[str], answer: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(options)
    errors = capsys.readouterr().err
    assert end.value.code == 2
    assert answer in errors
    assert len(errors.splitlines()) <= 3
    assert count_runs(workplace) == 0


def test_a_module_with_loaders_trains_on_the_data_that_are_given(workplace: Path) -> None:
    with pytest.raises(ValueError, match="--model: one training step fails"):  # Its net takes no images.
        check_training(build_fit(CommandLine.parse([*of(WithLoaders)[:1], "--data=digits"])))


def test_the_first_step_is_tried_with_the_length_of_the_training(workplace: Path) -> None:
    assert "train_loss" in try_first_step(build_fit(CommandLine.parse([*of(OfItsLength, Line), "--max_epochs=2"])))


def test_the_first_logger_of_the_user_is_that_of_the_module(workplace: Path) -> None:
    trainer = build_fit(
        CommandLine.parse([*of(Slope), "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs"])
    ).trainer
    assert [type(logger).__name__ for logger in trainer.loggers] == ["CSVLogger", "MLflowLogger"]


@pytest.mark.faults
def test_a_metric_of_training_selects_the_best_checkpoint_without_validation(workplace: Path) -> None:
    main([*of(MonitorsTraining, Line), "--max_epochs=2", "--trainer.limit_val_batches=0"])
    main(["--resume", "latest", "--max_epochs=3"])
    run = Fit(workplace, 0, "").run
    points = Fit(workplace, 0, "").client.get_metric_history(run.info.run_id, "best/train_loss")
    losses = [point.value for point in points if point.value == point.value]  # The chart begins with NaN.
    assert len(losses) == 3 and losses == sorted(losses, reverse=True)
    assert [path.name for path in workplace.glob("mlruns/checkpoints/*/best-*.ckpt")] == ["best-epoch002.ckpt"]


def test_a_module_may_have_its_own_data(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*of(WithLoaders, LightningDataModule), "--max_epochs=1"])
    assert re.search(
        r"epoch 1 of 1: train loss [\d.]+, val loss_0 [\d.]+, val loss_1 [\d.]+, lr", capsys.readouterr().out
    )


def test_a_function_may_return_the_module(workplace: Path) -> None:
    command = [f"--model={__name__}.make_slope", *of(Slope, Line)[1:], "--model.lr=0.3"]
    assert build_fit(CommandLine.parse(command)).model.lr == 0.3


def test_a_hyper_parameter_may_make_the_optimizer(workplace: Path) -> None:
    command = CommandLine.parse([*of(Optimized, Line), "--model.optimizer=SGD", "--model.optimizer.lr=0.3"])
    with Interrupts() as interrupts:
        logged = try_first_step(build_fit(command, [interrupts]))  # As in a fit, the trainer cannot be pickled.
    assert "train_loss" in logged


def test_a_rehearsal_leaves_no_run_and_no_file(workplace: Path) -> None:
    try_first_step(build_fit(CommandLine.parse([*of(Tracked, Line), f"--trainer.callbacks+={__name__}.ReadsBack"])))
    assert mlflow.active_run() is None
    assert count_runs(workplace) == 0
    assert [path.name for path in workplace.iterdir()] == ["mlruns"]


def test_a_module_may_call_the_client_of_lightnings_mlflow_logger_and_mlflow(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without_address:
        without_address.delenv("MLFLOW_TRACKING_URI", raising=False)
        main([*of(Noted, Line), "--max_epochs=1"])
    trained, own = sorted(Fit(workplace, 0, "").runs, key=lambda run: run.info.start_time)
    assert (own.info.run_name, own.info.status) == ("own", "FINISHED")
    assert not Path("mlflow.db").exists()
    assert mlflow.artifacts.load_text(f"{trained.info.artifact_uri}/note.txt") == "y = 2x"
    assert Path("mlruns/checkpoints", trained.info.run_id, "file.txt").exists()


def test_manual_optimization_trains(workplace: Path) -> None:
    main([*of(Manual), "--max_epochs=1"])
    assert Fit(workplace, 0, "").run.info.status == "FINISHED"
    (last,) = Path("mlruns/checkpoints").glob("*/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == STEPS


def test_a_module_may_make_its_net_late_and_keep_its_own_checkpoints(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*of(Complete), "--max_epochs=1"])
    done = Fit(workplace, 0, capsys.readouterr().out)
    assert "model   Complete, parameters known after the first batch" in done.output
    assert " (Complete, 2 parameters), " in done.run.data.tags["mlflow.note.content"]
    own = torch.load(Path("mlruns/checkpoints", done.run.info.run_id, "own.ckpt"), weights_only=True)
    assert own["hyper_parameters"] == {}  # A class cannot be stored, and the settings of the run name it.
    assert not list(Path.cwd().glob("LineWithVal*"))


# These resume in the same way as one of the others.
MORE_MODULES = (Slope, WarmPlateau, PlateauOfTraining, Halving, ByItsOwnSchedule, WithoutOptimizer)


@pytest.mark.parametrize(
    "model",
    [Plateau, Finetuned, Alternating, *(pytest.param(model, marks=pytest.mark.faults) for model in MORE_MODULES)],
)
def test_a_module_resumes_at_the_step_of_its_checkpoint(model: type, workplace: Path) -> None:
    main([*of(model), "--max_epochs=2"])
    whole = weights()
    main([*of(model), "--max_epochs=1"])
    (run_id,) = [run.info.run_id for run in Fit(workplace, 0, "").runs if run.data.params["trainer.max_epochs"] == "1"]
    main(["--resume", run_id, "--max_epochs=2"])
    torch.testing.assert_close(weights(), whole, rtol=0, atol=0)


def test_a_task_resumes_with_a_group_that_a_callback_has_added(workplace: Path) -> None:
    main([*of(FinetunedTask, Described), f"--trainer.callbacks+={__name__}.UnfreezeBias", "--max_epochs=1"])
    main(["--resume=latest", "--max_epochs=2"])
    (last,) = Path("mlruns/checkpoints").glob("*/last.ckpt")
    optimizer = torch.load(last, weights_only=True)["optimizer_states"][0]
    assert [state["step"] for state in optimizer["state"].values()] == [2 * STEPS] * 2
    # The callback adds the group with the rate 0.01 when the schedule is at half of its peak.
    assert [group["initial_lr"] for group in optimizer["param_groups"]] == pytest.approx([1e-3, 0.02])


@pytest.mark.faults
def test_a_module_resumes_with_other_settings_of_its_optimizer(workplace: Path) -> None:
    main([*of(StepsASchedule, Line), "--max_epochs=1"])
    main(["--resume=latest", "--max_epochs=3", "--model.lr=0.4", "--model.decay=0.25"])
    (last,) = Path("mlruns/checkpoints").glob("*/last.ckpt")
    (group,) = torch.load(last, weights_only=True)["optimizer_states"][0]["param_groups"]
    assert (group["lr"], group["weight_decay"]) == (0.4 * 0.5**3, 0.25)


@pytest.mark.parametrize(
    ("hook", "step", "options", "rate"),
    [
        pytest.param("on_train_batch_start", 2, [], 0.1 * 0.5, marks=pytest.mark.faults),
        ("on_validation_batch_start", STEPS, ["--model.lr=0.4"], 0.4),  # The module needs the epoch's batches.
    ],
)
def test_a_schedule_follows_its_metric_in_an_epoch_that_is_resumed(
    hook: str, step: int, options: list[str], rate: float, workplace: Path
) -> None:
    def stop(trainer: Trainer, *args: Any) -> None:
        if args[2] == 1 and not trainer.sanity_checking:  # the second batch
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(SystemExit):
        main([*of(Plateau), "--max_epochs=2", "--checkpoint.every_n_epochs=9"], [LambdaCallback(**{hook: stop})])
    (last,) = Path("mlruns/checkpoints").glob("*/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == step
    main(["--resume=latest", "--checkpoint.every_n_epochs=1", *options])
    (group,) = torch.load(last, weights_only=True)["optimizer_states"][0]["param_groups"]
    assert group["lr"] == rate  # The checkpoint is saved before the step of its epoch.


def weights() -> dict[str, Tensor]:
    newest = max(Path("mlruns/checkpoints").glob("*/last.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    state: dict[str, Tensor] = torch.load(newest, weights_only=True)["state_dict"]
    return state


@pytest.mark.parametrize(
    ("model", "strategy"), [(Plateau, "ddp"), pytest.param(Sharded, "fsdp", marks=pytest.mark.faults)]
)
def test_ranks_share_the_samples_of_a_plain_loader(model: type, strategy: str, tmp_path: Path) -> None:
    copy_store(tmp_path)
    options = [*of(model, LineWithTest), f"--strategy={strategy}", "--max_epochs=1"]
    run_ranks("project.fit", *options, folder=tmp_path, environment={"PYTHONPATH": f"{ROOT}:{ROOT}/tests"})
    done = Fit(tmp_path, 0, "")
    (last,) = (tmp_path / "mlruns/checkpoints" / done.run.info.run_id).glob("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == STEPS / 2


def test_a_sweep_follows_the_direction_of_its_search(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("configs/search").mkdir(parents=True)
    Path("configs/search/slope.yaml").write_text(
        "metric: val_score\ndirection: maximize\nspace:\n  model.lr: {type: float, low: 0.01, high: 0.1}\n"
    )
    with pytest.raises(SystemExit) as end:
        sweep(["--search", "slope", "--n_trials=1", "--max_epochs=2", *of(Validated)])
    assert end.value.code == 0
    ending = capsys.readouterr().out.partition("train with the settings of the best trial\n  ")[2].splitlines()
    for log in Path("mlruns/sweeps").glob("*/trial-*.log"):
        assert "best epoch " in log.read_text()
        assert "python -m project.fit" not in log.read_text()  # Hints are for a person.
    (run,) = [run for run in Fit(workplace, 0, "").runs if "trial" in run.data.tags]
    assert ending[0] == f"python -m project.fit --rerun {run.info.run_id}"
    assert run.data.params["checkpoint.mode"] == "max"
    points = Fit(workplace, 0, "").client.get_metric_history(run.info.run_id, "val_score")
    assert run.data.metrics["best/val_score"] == max(point.value for point in points)


def test_a_sweep_refuses_a_metric_that_only_callbacks_have(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = "space:\n  model.lr: {type: float, low: 0.01, high: 0.1}\n"
    Path("slope.yaml").write_text(f"metric: train_mean\ndirection: minimize\n{space}")
    with pytest.raises(SystemExit, match="2"):
        sweep(["--search", "slope.yaml", *of(LoggedTwice)])
    assert "--search: got the metric 'train_mean' (did you mean train_mean_" in capsys.readouterr().err
