"""The trained model as MLflow serves it."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import mlflow.pytorch
import numpy as np
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import Tensor, nn


class Probabilities(nn.Module):
    """A classifier whose output is probabilities instead of logits."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W), uint8, to probabilities (N, classes), float32."""
        logits: Tensor = self.classifier(images)
        return logits.float().softmax(1)


def save_model(folder: Path, classifier: nn.Module, images: Tensor, class_names: Sequence[str]) -> None:
    """Save a classifier with its signature and an input example, as an exported program without pickles.

    Args:
        folder: Where to; must not be there yet.
        classifier: Maps uint8 images to logits; left on the CPU, in evaluation mode.
        images: Two or more examples, (N, C, H, W) uint8.
        class_names: Names of the classes, by label.
    """
    model = Probabilities(classifier).cpu().eval()
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.uint8), (-1, *images.shape[1:]))]),
        Schema([TensorSpec(np.dtype(np.float32), (-1, len(class_names)))]),
    )
    with torch.no_grad():
        mlflow.pytorch.save_model(
            model,
            str(folder),
            serialization_format="pt2",
            signature=signature,
            input_example=images.cpu().numpy(),
            # Named here, since inferring them would load the model in a fresh process.
            pip_requirements=[f"{package}=={version(package)}" for package in ("torch", "mlflow", "numpy")],
            metadata={"class_names": list(class_names)},
        )
