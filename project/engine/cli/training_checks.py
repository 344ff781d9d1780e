"""The checks of a fit before its run: the data, the length of the training, and its first step."""

from functools import partial

from lightning import LightningDataModule, LightningModule, Trainer
from lightning.fabric.utilities.data import sized_len
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from lightning_utilities.core.apply_func import apply_to_collection
from torch.utils.data import DataLoader

from project.engine.cli.config_groups import DEFAULTS
from project.engine.cli.fit_cli import FitCLI
from project.engine.cli.rehearsal import check_logged, check_monitors, rehearse
from project.engine.cli.settings import listed
from project.engine.cli.trainer_checks import check_closures, check_cuda_graphs, check_lengths, check_not_sharded
from project.engine.compat import divided_loader
from project.engine.data import described
from project.engine.loading import ImageDataModule
from project.engine.task import Task
from project.engine.task_checks import check_batch


def check_training(cli: FitCLI) -> None:
    """Load the data if it describes itself, and try the first step of the training, on the first rank.

    Raises:
        ValueError: The settings do not fit the data, or the first step would end the run.
    """
    trainer = cli.trainer
    chosen = cli.config.groups.data, cli.config.data.class_path
    is_default = chosen == (DEFAULTS["data"], cli.default_settings["data"])
    named = {option.partition("=")[0] for option in cli.command.argv} & {"--data", "--resume", "--rerun"}
    if is_default and not named and is_overridden("train_dataloader", cli.model):
        raise ValueError(
            f"--data: got nothing, but {type(cli.model).__name__} has loaders of its own; add --data "
            "lightning.LightningDataModule to use them"
        )
    cli.data.prepare_data()
    cli.data.setup("fit")
    cli.data.check_batch_size(trainer.world_size)
    check_not_sharded(trainer)
    if isinstance(cli.model, Task):
        check_closures(trainer, [cli.model.make_optimizer()])
        if cli.model.replays_cuda_graphs:
            check_cuda_graphs(trainer, str(cli.model.compile_net))
    check_lengths(trainer, cli.data.batch_counts(trainer.world_size))
    if isinstance(cli.model, Task) and (examples := cli.data.examples()):
        check_batch(cli.model, *examples)
    if isinstance(trainer.strategy, ModelParallelStrategy) and not isinstance(cli.model, Task):
        return  # Its `configure_model` may need several processes.
    # Nothing is known about a class that declares nothing, before it has done a step.
    plain = cli.data is not cli.datamodule or not isinstance(cli.model, Task)
    extra = cli.datamodule.augmentation.extra if isinstance(cli.datamodule, ImageDataModule) else ()
    if trainer.fast_dev_run or not (plain or cli.callbacks or extra):  # type: ignore[attr-defined]
        return
    of_task = "--trainer.callbacks" if cli.callbacks else "--data.augmentation.extra"
    logged = try_first_step(cli, "--model" if plain else of_task)
    check_monitors(cli.callbacks, logged)
    monitor = cli.config_init.checkpoint.monitor
    if plain and monitor is not None:
        given = "--checkpoint.monitor" if cli.config.checkpoint.monitor else f"{type(cli.model).__name__}.monitor"
        check_logged(f"{given}: got", monitor, logged)


def try_first_step(cli: FitCLI, blamed: str = "--model") -> set[str]:
    """Train and validate one batch with new instances of data, model and callbacks; see `rehearse`.

    Args:
        cli: The fit.
        blamed: The option that an error of the step is attributed to.
    """
    with isolate_rng():
        own = cli.instantiate()
        described(own.data).share_splits(cli.data)
        logged = rehearse(
            own.model, own.data, listed(own.trainer.callbacks), cli.trainer,
            accelerator=cli.config.trainer.accelerator, logger=bool(cli.trainer.loggers), blamed=blamed,
        )  # fmt: skip
        _check_divisible(cli.trainer, [own.model.trainer.train_dataloader, own.model.trainer.val_dataloaders])
        check_lengths(cli.trainer, _lengths(own.model, own.data, cli.trainer))
        check_closures(cli.trainer, own.model.trainer.optimizers)
        return logged


def _check_divisible(trainer: Trainer, loaders: object) -> None:
    """Raise ValueError if the samples of loaders cannot be divided among the processes of a trainer."""
    try:
        apply_to_collection(loaders, DataLoader, partial(divided_loader, trainer))
    except (MisconfigurationException, TypeError) as error:
        raise ValueError(
            f"--strategy: the samples of a loader cannot be divided among processes ({str(error).partition('. ')[0]}); "
            "divide them in the loader, and add --trainer.use_distributed_sampler false"
        ) from error


def _lengths(model: LightningModule, data: LightningDataModule, trainer: Trainer) -> dict[str, int | None]:
    """Return the batches that each rank has of plain loaders after a rehearsal, by split; None if they are unknown."""
    loaders = {"train": [model.trainer.train_dataloader], "val": listed(model.trainer.val_dataloaders)}
    if 0 < trainer.limit_test_batches < 1 and described(data).has_test:  # Otherwise, the test needs no length.
        data.setup("test")
        model.setup("test")  # It may have the loader.
        loaders["test"] = listed(data.test_dataloader())
    plain = {split: found for split, found in loaders.items() if all(isinstance(one, DataLoader) for one in found)}
    counts = {split: min(map(sized_len, ones), key=lambda count: count or 0) for split, ones in plain.items() if ones}
    return {split: None if count is None else -(-count // trainer.world_size) for split, count in counts.items()}
