"""The trained model as MLflow serves it."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pytorch
import numpy as np
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import Tensor, nn


def save_model(
    folder: Path, model: nn.Module, inputs: Tensor, metadata: Mapping[str, Any], output_name: str | None = None
) -> ModelSignature:
    """Save a model with its signature and an input example, as an exported program without pickles.

    Args:
        folder: The folder to write; it must not exist.
        model: Maps inputs (N, ...) to a tensor (N, ...); it is moved to the CPU, in evaluation mode.
        inputs: Two or more examples, (N, ...).
        metadata: Values that are stored with the model, such as the names of its outputs.
        output_name: Name of the output in the signature. The input has no name: MLflow would pass it as a mapping,
            which its PyTorch models refuse.

    Returns:
        The signature of the model.

    Raises:
        ValueError: The saved program does not accept another number of inputs, or has other outputs than the model.
    """
    model, inputs = model.cpu().eval(), inputs.cpu()
    with torch.no_grad():
        outputs: Tensor = model(inputs)
        signature = ModelSignature(Schema([_any_number_of(inputs)]), Schema([_any_number_of(outputs, output_name)]))
        mlflow.pytorch.save_model(
            model,
            str(folder),
            serialization_format="pt2",
            signature=signature,
            input_example=inputs.numpy(),
            # MLflow would load the model in a new process to find the requirements.
            pip_requirements=[f"{package}=={version(package)}" for package in ("torch", "mlflow", "numpy")],
            metadata=dict(metadata),
        )
    _check_served(folder, model, torch.cat([inputs, inputs[:1]]))
    return signature


def _any_number_of(samples: Tensor, name: str | None = None) -> TensorSpec:
    return TensorSpec(np.dtype(samples.numpy().dtype), (-1, *samples.shape[1:]), name)


def _check_served(folder: Path, model: nn.Module, inputs: Tensor) -> None:
    """Compare the saved program with the model at batch sizes other than that of the export."""
    served = mlflow.pytorch.load_model(str(folder))
    for count in (1, 3):
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # A net may draw random numbers.
            expected = model(inputs[:count])
            torch.manual_seed(0)
            try:
                output = served(inputs[:count])
            except (AssertionError, RuntimeError, ValueError) as error:
                raise ValueError(f"the exported net does not take a batch of {count}: {error}") from error
        if output.shape != expected.shape or not torch.allclose(output, expected, rtol=1e-3, atol=1e-4):
            raise ValueError(f"the exported net gives other outputs than the net for a batch of {count}")
