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

    Raises:
        ValueError: The saved program takes no other number of images, or does not compute what the classifier does.
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
    _check_served(folder, model, torch.cat([images.cpu(), images[:1].cpu()]))


def _check_served(folder: Path, model: nn.Module, images: Tensor) -> None:
    """Compare the saved program with the model at batch sizes that differ from the one that it was exported with."""
    served = mlflow.pytorch.load_model(str(folder))
    for count in (1, 3):
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # a net may draw
            expected = model(images[:count])
            torch.manual_seed(0)
            try:
                output = served(images[:count])
            except (AssertionError, RuntimeError, ValueError) as error:
                raise ValueError(f"the exported net does not take a batch of {count}: {error}") from error
        if output.shape != expected.shape or not torch.allclose(output, expected, rtol=1e-3, atol=1e-4):
            raise ValueError(f"the exported net gives other probabilities than the net for a batch of {count}")
