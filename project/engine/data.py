"""The properties of data that the engine reads, with defaults, so that any LightningDataModule works."""

import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from lightning import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

GIVEN_BY_DATA = "given_by_data"
"""Attribute of a model, and key of its checkpoints: arguments of the model that came from its data, by name."""

DECODING = "decoding"
"""Key of a checkpoint: how the files of its data were decoded."""


def plain(value: Any) -> Any:
    """Return a value of numbers, texts, lists and dictionaries, as a checkpoint and JSON can hold it.

    Raises:
        TypeError: A part of the value is of another type.
    """
    return json.loads(json.dumps(value))


class DescribedDataModule(LightningDataModule):
    """Data that the engine can check before a run, record with it, and resume in the middle of an epoch.

    Each method has a default that declares nothing. The splits are known after `setup`.

    Attributes:
        name: Name of the data, of its MLflow experiment and of its dataset input.
        source: Where the data is, such as a folder.
        skipped: Number of samples left out, by split.
    """

    name: str
    source: str = ""
    skipped: Mapping[str, int] = MappingProxyType({})

    @property
    def has_test(self) -> bool:
        """Whether there is a test split."""
        return is_overridden("test_dataloader", self, LightningDataModule)

    def sizes(self) -> dict[str, int]:
        """Return the number of samples in each split."""
        return {}

    def profile(self) -> dict[str, Any]:
        """Return what else is counted in the splits, by a short name, as values of JSON."""
        return {}

    def sample_names(self, split: str) -> Sequence[str]:
        """Return the name of each sample of a split in the order of its loader, such as its path; empty if unknown."""
        return ()

    def samples(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of all samples of a split, inputs and targets (N, ...), in the order of `sample_names`.

        They are those that the model receives in validation. Their memory may be reused for the next batch.
        """
        return iter(())

    def original_sizes(self, split: str) -> Tensor | None:
        """Return height and width of the samples before they are resized, (N, 2) integers; None if unknown."""
        return None

    def decoding(self) -> dict[str, Any]:
        """Return how the files of the data are decoded, for predictions; known after `setup`."""
        return {}

    def digest(self) -> str:
        """Return a text that changes with the data; empty if it is unknown."""
        return ""

    def split_digest(self, split: str) -> str:
        """Return a text that changes with the samples of a split; by default, that of all data."""
        return self.digest()

    def found(self) -> list[str]:
        """Return lines for the terminal about the data."""
        return []

    def all_targets(self, split: str) -> Tensor | None:
        """Return the targets (N, ...) of a split; None if they are not known without loading its samples."""
        return None

    def examples(self) -> tuple[Tensor, Tensor] | None:
        """Return two or more samples as the model receives them, inputs and targets (N, ...); None if unknown."""
        return None

    def batch_counts(self, ranks: int) -> dict[str, int]:
        """Return the number of batches that each of `ranks` processes has in an epoch, by split."""
        return {}

    def check_batch_size(self, ranks: int) -> None:
        """Raise ValueError if a step of all ranks needs more samples than train has."""

    def check_same_batches(self, state: dict[str, Any], ranks: int, limit: float) -> None:
        """Raise ValueError if a run that was stopped at `state` would resume with other batches.

        Args:
            state: State of the data from a checkpoint; empty if it has none.
            ranks: Number of processes.
            limit: The trainer's `limit_train_batches`.
        """

    def share_splits(self, other: "DescribedDataModule") -> None:
        """Use the splits that another instance with the same settings has loaded."""


class _Undeclared(DescribedDataModule):
    """A description with only a name; its `prepare_data` and `setup` do nothing."""

    def __init__(self, datamodule: LightningDataModule) -> None:
        super().__init__()
        self.name = type(datamodule).__name__
        self._has_test = is_overridden("test_dataloader", datamodule, LightningDataModule)

    @property
    def has_test(self) -> bool:
        return self._has_test


def described(datamodule: LightningDataModule) -> DescribedDataModule:
    """Return the datamodule itself if it describes its data, else a description with only its name."""
    return datamodule if isinstance(datamodule, DescribedDataModule) else _Undeclared(datamodule)
