"""A plain LightningModule and a plain LightningDataModule, without imports from this project.

python -m project.fit --config examples/tabular.yaml
"""

import torch
import torch.nn.functional as F
from lightning import LightningDataModule, LightningModule
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class BreastCancer(LightningDataModule):
    """569 samples of 30 measurements of cell nuclei; a fifth is for validation.

    Source: Street, Wolberg and Mangasarian, Nuclear feature extraction for breast tumor diagnosis, 1993.

    Args:
        batch_size: Samples per step and process.
    """

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        features, labels = load_breast_cancer(return_X_y=True)
        features = (features - features.mean(0)) / features.std(0)
        train, val = train_test_split(range(len(labels)), test_size=0.2, random_state=0, stratify=labels)
        self.train, self.val = (
            TensorDataset(torch.tensor(features[part]).float(), torch.tensor(labels[part]).float())
            for part in (train, val)
        )

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.val, self.batch_size)


class LogisticRegression(LightningModule):
    """Logistic regression. `monitor` and `mode` select the best checkpoint; without them, the last one is tested.

    Args:
        features: Number of features.
        lr: Learning rate of Adam.
    """

    monitor, mode = "val_accuracy", "max"

    def __init__(self, features: int = 30, lr: float = 0.01) -> None:
        super().__init__()
        self.linear, self.lr = nn.Linear(features, 1), lr

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        features, labels = batch
        loss = F.binary_cross_entropy_with_logits(self.linear(features).squeeze(1), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        features, labels = batch
        logits = self.linear(features).squeeze(1)
        self.log("val_loss", F.binary_cross_entropy_with_logits(logits, labels), sync_dist=True)
        self.log("val_accuracy", ((logits > 0) == labels.bool()).float().mean(), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)
