"""The base class of tasks: the objective of training, and the properties that the engine reads."""

import copy
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torchmetrics import MeanMetric, Metric, MetricCollection

from project.engine.checkpoints.epoch_metrics import repeatable, restore_states, save_states
from project.engine.evaluation import Columns, Evaluation, as_columns, bootstrap_draws, percentile_intervals
from project.engine.runtime.fsdp2 import shard
from project.engine.schedule import ScheduleCallable, WarmupCosine, make_schedule, total_steps

Batch = tuple[Tensor, Tensor]
"""Inputs (N, ...) and targets (N, ...)."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps outputs (N, ...) and targets (N, ...) to a scalar."""

LossCallable = Callable[[], nn.Module]
"""Makes a loss, such as a class of torch.nn."""

Mode = Literal["min", "max"]

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
"""The modes of `torch.compile`. `reduce-overhead` and `max-autotune` replay CUDA graphs on a GPU."""

_WITH_CUDA_GRAPHS = ("reduce-overhead", "max-autotune")

# Optimizers with one kernel for all their parameters on CPUs and GPUs. Torch's default is a loop on CPUs.
_FUSABLE = (torch.optim.Adam, torch.optim.SGD)


class Baseline(NamedTuple):
    """A score that needs no training, with which the score of a model is compared.

    Attributes:
        metric: Name of the metric, without the stage; in the summary of a fit with its stage.
        value: Its value.
        sentence: How it is reached, such as `always guessing the commonest class`.
    """

    metric: str
    value: float
    sentence: str


class Task(LightningModule):
    """The training of a net on pairs of inputs and targets; loss and metrics are logged as STAGE/NAME.

    Args:
        net: The trained module, which maps inputs to outputs.
        loss: Maps outputs and targets to a scalar.
        metrics: Metrics of outputs and targets, by name. Each stage has its own copy.
        optimizer: Makes the optimizer; called with the groups of `parameter_groups`.
        lr_schedule: Makes the schedule from the optimizer; any class of torch.optim.lr_scheduler that depends only on
            the step. It advances after each optimizer step. `T_max` and `total_iters` default to the length of the
            training; `total_steps` is always that length.
        compile: Compile the net: true, or a mode of `torch.compile`. On a GPU, `reduce-overhead` starts the operations
            of the net with one call. A sharded net cannot be compiled.
        channels_last: Keep images and weights in the NHWC format; sharded weights stay contiguous.

    Attributes:
        monitor: Metric of the validation that selects the best checkpoint.
        output_name: Name of the tensor that the served model returns.
        from_data: Arguments of the constructor that come from attributes of the data; they are not options.
    """

    monitor: str = "val/loss"
    output_name: ClassVar[str] = "outputs"
    from_data: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        net: nn.Module,
        loss: Loss,
        metrics: MetricCollection | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_schedule: ScheduleCallable = WarmupCosine,
        compile: bool | CompileMode = False,  # noqa: A002  # as in torch.compile
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.net, self.loss = net, loss
        self.optimizer, self.lr_schedule, self.compile_net = optimizer, lr_schedule, compile
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        metrics = MetricCollection({}) if metrics is None else metrics
        if any(str(name).startswith("loss") for name in metrics):
            raise ValueError("model.metrics: got a metric with the name loss, which is that of the loss; rename it")
        self.train_metrics = metrics.clone(prefix="train/")
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")
        # Looking for NaN would make a GPU wait.
        self.train_loss, self.val_loss, self.test_loss = (MeanMetric(nan_strategy="disable") for _ in range(3))
        self._epoch_has_sums = self._epoch_is_logged = False

    # Methods that a subclass may override.

    def training_targets(self, targets: Tensor) -> Tensor:
        """Return the targets of the loss in training, such as smoothed labels."""
        return targets

    def update_metrics(self, metrics: MetricCollection, outputs: Tensor, targets: Tensor) -> None:
        """Update the metrics of a stage with a batch."""
        metrics.update(outputs, targets)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of parameters that the optimizer is called with.

        A group has `params`, and settings of the optimizer that differ for them, such as `weight_decay`. Its learning
        rate is multiplied by its `lr_scale`, and logged as `lr/NAME` if it has a `name`.
        """
        return [{"params": list(self.net.parameters())}]

    def evaluation(self, outputs: Tensor, targets: Tensor) -> Evaluation:
        """Return what `project.evaluate` adds to the logged metrics, by default their intervals.

        Args:
            outputs: Outputs for all samples of a split, (N, ...), on the CPU.
            targets: Their targets, (N, ...).
        """
        samples: Columns = {}
        absent: tuple[str, ...] = ("scores beyond its metrics",)
        if outputs.ndim <= 2:
            samples = as_columns("target", targets) | self.predictions(outputs)
        else:
            absent += ("predictions of each sample",)
        draws = self.metric_draws(outputs, targets)
        return Evaluation(
            intervals=percentile_intervals(draws),
            samples=samples,
            draws=draws,
            modes=self.modes_of(draws),
            absent=absent,
        )

    def predictions(self, outputs: Tensor, top_k: int = 1) -> dict[str, Any]:
        """Return the predictions for a table, by column; by default the outputs themselves.

        Args:
            outputs: (N, ...), on the CPU.
            top_k: Number of predictions for each sample, if they have an order.

        Raises:
            ValueError: The outputs are too large for a table.
        """
        if outputs.ndim > 2:
            raise ValueError(
                f"{type(self).__name__} does not declare predictions for a table: its outputs have the shape "
                f"{tuple(outputs.shape)}; override Task.predictions"
            )
        return as_columns("prediction", outputs)

    def averaged(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the outputs (N, ...) for samples with several views, from the outputs for each view."""
        return torch.stack(list(outputs)).mean(0)

    def baseline(self, targets: Tensor) -> Baseline | None:
        """Return a score that needs no training, or None.

        Args:
            targets: All targets (N, ...) of the split that scores the model.
        """
        return None

    def serving_model(self) -> nn.Module | None:
        """Return the module that MLflow serves, which maps inputs to predictions, or None."""
        return None

    def serving_names(self) -> Sequence[str]:
        """Return the names of the columns (N, names) of the served model's output, if its inputs are images.

        MLflow then serves a model that takes image files, and returns the name with the largest value.
        """
        return ()

    def serving_metadata(self) -> dict[str, Any]:
        """Return what is stored with the served model, such as names of outputs."""
        return {}

    # Methods that the engine calls.

    @property
    def replays_cuda_graphs(self) -> bool:
        """Whether the net is compiled in a mode that replays CUDA graphs, if it is trained on a GPU."""
        return self.compile_net in _WITH_CUDA_GRAPHS

    def logged_metrics(self) -> set[str]:
        """Return the names of all metrics that the task logs."""
        collections = (self.train_metrics, self.val_metrics, self.test_metrics)
        names = {name for metrics in collections for name, _ in _named(metrics)}
        return names | {"train/loss", "train/loss_epoch", "val/loss", "test/loss"}

    def mode_of(self, metric: str) -> Mode | None:
        """Return whether small or large values of a metric are better; None if the metric does not declare it."""
        name = metric.rpartition("/")[2]
        if name.startswith("loss"):
            return "min"
        with suppress(KeyError):
            better = self.val_metrics[f"val/{name}"].higher_is_better
            return None if better is None else "max" if better else "min"
        return None

    def modes_of(self, metrics: Iterable[str]) -> dict[str, Mode]:
        """Return whether small or large values are better, for each metric that declares it."""
        return {name: mode for name in metrics if (mode := self.mode_of(name)) is not None}

    def metric_draws(
        self, outputs: Tensor, targets: Tensor, without: Collection[str] = ()
    ) -> dict[str, NDArray[np.float64]]:
        """Return the values of the loss and of the metrics in resamples, by name; see `bootstrap_draws`.

        Args:
            outputs: Outputs for all samples, (N, ...), on the CPU.
            targets: Their targets, (N, ...).
            without: Names of metrics to leave out.
        """
        kept: dict[str, Metric | MetricCollection] = {
            name: copy.deepcopy(metric) for name, metric in self.test_metrics.items(True) if name not in without
        }
        for metric in kept.values():
            metric.sync_on_compute = False  # Only the first rank computes intervals.
        metrics = MetricCollection(kept, compute_groups=False).cpu()
        loss = copy.deepcopy(self.loss).cpu() if isinstance(self.loss, nn.Module) else self.loss

        def scores(rows: NDArray[np.int64]) -> dict[str, float]:
            drawn = outputs[rows], targets[rows]
            metrics.reset()
            self.update_metrics(metrics, *drawn)
            return {"loss": float(loss(*drawn)), **{name: float(value) for name, value in metrics.compute().items()}}

        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # A draw may lack samples that a metric needs.
            return bootstrap_draws(scores, len(outputs), outputs[0].numel())

    def make_optimizer(self) -> Optimizer:
        """Return a new optimizer of the net's parameters; Adam and SGD are fused, unless the settings exclude it."""
        optimizer = self.optimizer(self.parameter_groups())
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * group.get("lr_scale", 1)
            if isinstance(optimizer, _FUSABLE) and not (group["foreach"] or group["differentiable"]):
                group["fused"] = _fusable(group["params"]) if group["fused"] is None else group["fused"]
        return optimizer

    # The steps.

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (N, ...) to outputs (N, ...)."""
        return self.net_outputs(inputs)

    def net_outputs(self, inputs: Tensor) -> Tensor:
        """Map the net's inputs (N, ...) to its outputs (N, ...)."""
        outputs: Tensor = self.net(inputs)
        return outputs.clone() if self.replays_cuda_graphs else outputs  # The next replay overwrites them.

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs, targets = batch
        outputs = self(inputs)
        loss = self.loss(outputs, self.training_targets(targets))
        _add(self.train_loss, loss, targets)
        self.update_metrics(self.train_metrics, outputs, targets)
        self._epoch_has_sums = True
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._evaluate(batch, self.val_loss, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._evaluate(batch, self.test_loss, self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        outputs: Tensor = self(batch[0])
        return outputs

    def _evaluate(self, batch: Batch, mean_loss: MeanMetric, metrics: MetricCollection) -> Tensor:
        inputs, targets = batch
        outputs: Tensor = self(inputs)
        self.update_metrics(metrics, outputs, targets)
        _add(mean_loss, self.loss(outputs, targets), targets)
        return outputs

    def on_validation_epoch_start(self) -> None:
        self.val_loss.reset()
        self.val_metrics.reset()

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val/loss", self.val_loss, self.val_metrics)

    def on_test_epoch_start(self) -> None:
        self.test_loss.reset()
        self.test_metrics.reset()

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test/loss", self.test_loss, self.test_metrics)

    def _log_metrics(self, loss: str, mean_loss: MeanMetric, metrics: MetricCollection) -> None:
        self.log(loss, mean_loss, prog_bar=loss == self.monitor)
        for name, metric in _named(metrics):
            self.log(name, metric, prog_bar=True)

    # The metrics of a training epoch, which a resumed run continues.

    def _epoch_metrics(self) -> Mapping[str, Metric]:
        return {"train/loss_epoch": self.train_loss, **dict(_named(self.train_metrics))}

    @repeatable
    def on_train_epoch_end(self) -> None:
        """Log the metrics of the epoch; after a resume from the end of its validation, only callbacks get them."""
        if self._epoch_is_logged:
            for name, metric in self._epoch_metrics().items():
                self.trainer.callback_metrics[name] = metric.compute()
                metric.reset()
        elif self._epoch_has_sums:
            for name, metric in self._epoch_metrics().items():
                self.log(name, metric, prog_bar=metric is not self.train_loss)
        self._epoch_has_sums = self._epoch_is_logged = False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        save_states(self.trainer, self._epoch_metrics(), checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.state.fn == TrainerFn.FITTING:
            restored = restore_states(self.trainer, self._epoch_metrics(), checkpoint)
            self._epoch_has_sums, self._epoch_is_logged = restored

    # The net and its optimizer, for every strategy.

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            shard(self.net, self.device_mesh)  # FSDP2 refuses weights that are not contiguous.
        else:
            self.net.to(memory_format=self.memory_format)
        if self.compile_net:
            self.net.compile(mode="default" if self.compile_net is True else self.compile_net)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.make_optimizer()
        schedule = make_schedule(self.lr_schedule, optimizer, total_steps(self.trainer))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"}}


def _fusable(parameters: Iterable[nn.Parameter]) -> bool:
    return all(
        one.is_floating_point() and one.device.type in ("cpu", "cuda") and not isinstance(one, DTensor)
        for one in parameters  # torch cannot fuse SGD for sharded parameters
    )


def _add(mean_loss: MeanMetric, loss: Tensor, targets: Tensor) -> None:
    """Add the loss of a batch for each of its samples.

    Lightning's mean over ranks rounds the mean number of samples to an integer, and torchmetrics ignores weights if it
    does not look for NaN: https://github.com/Lightning-AI/torchmetrics/blob/v1.9.0/src/torchmetrics/aggregation.py
    """
    samples = next(iter(targets.values())) if isinstance(targets, Mapping) else targets
    mean_loss.update(loss.detach().expand(len(samples)))


def _named(metrics: MetricCollection) -> Iterator[tuple[str, Metric]]:
    for name, metric in metrics.items(keep_base=False):
        yield str(name), metric
