"""The trained model as MLflow serves it."""

from collections.abc import Sequence
from importlib.metadata import version

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


def log_model(run_id: str, classifier: nn.Module, images: Tensor, class_names: Sequence[str]) -> str:
    """Log a classifier with its signature and an input example, as an exported program without pickles.

    Args:
        run_id: The run it belongs to, in the store that MLflow is set to.
        classifier: Maps uint8 images to logits; left on the CPU, in evaluation mode.
        images: Two or more examples, (N, C, H, W) uint8.
        class_names: Names of the classes, by label.

    Returns:
        The model's URI.
    """
    model = Probabilities(classifier).cpu().eval()
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.uint8), (-1, *images.shape[1:]))]),
        Schema([TensorSpec(np.dtype(np.float32), (-1, len(class_names)))]),
    )
    with torch.no_grad():
        info = mlflow.pytorch.log_model(
            model,
            name="model",
            run_id=run_id,
            serialization_format="pt2",
            signature=signature,
            input_example=images.cpu().numpy(),
            # Named here, since inferring them would load the model in a fresh process.
            pip_requirements=[f"{package}=={version(package)}" for package in ("torch", "mlflow", "numpy")],
            metadata={"class_names": list(class_names)},
        )
    return str(info.model_uri)
