"""The trained model as MLflow serves it."""

import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow.pyfunc
import mlflow.pytorch
import pandas as pd
import torch
from mlflow.models import ModelSignature, infer_signature
from PIL import Image
from torch import Tensor, nn

from project.engine.task import Task
from project.engine.training import served_images

_PACKAGE = "image_model"
"""Name of the package in a model of images. It differs from that of this project, because both may be imported."""


def save_served_model(folder: Path, task: Task, inputs: Tensor, decoding: Mapping[str, Any]) -> ModelSignature | None:
    """Save the model that a task declares for serving; return its signature, or None if it declares none.

    Args:
        folder: The folder to write; it must not exist.
        task: The trained task, on the CPU.
        inputs: Two or more examples, (N, ...).
        decoding: How the files of the data were decoded.

    Raises:
        ValueError: The saved program does not accept another number of inputs, or has other outputs than the model.
    """
    model, names, stored = task.serving_model(), task.serving_names(), task.serving_metadata()
    if model is None:
        return None
    if names and inputs.ndim == 4 and inputs.shape[1] in (1, 3):
        return save_image_model(folder, model, inputs, names, stored, **decoding)
    return save_model(folder, model, inputs, stored, task.output_name)


def save_image_model(
    folder: Path,
    model: nn.Module,
    images: Tensor,
    names: Sequence[str],
    metadata: Mapping[str, Any],
    bit_depth: int = 16,
) -> ModelSignature:
    """Save a model that takes image files and returns names and probabilities, without pickles and this project.

    Args:
        folder: The folder to write; it must not exist.
        model: Maps images (N, C, size, size), uint8, to probabilities (N, names); it is moved to the CPU.
        images: Two or more examples; C is 1 or 3.
        names: Names of the classes.
        metadata: Values that are stored with the model.
        bit_depth: Number of bits of the values in 16-bit files.

    Returns:
        The signature of the model.

    Raises:
        ValueError: The saved program does not accept another number of images, or has other outputs than the model.
    """
    model, images = model.cpu().eval(), images.cpu().contiguous()
    channels, size = images.shape[1:3]
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    with TemporaryDirectory() as place:
        parts, code = Path(place, "model"), Path(place, _PACKAGE)
        served_images.save(parts, program, names, size, channels, bit_depth)
        check_served(served_images.ImageModel.load(parts).probabilities, model, images)
        for name in served_images.COPIED:
            (code / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(__file__).parents[1] / name, code / name)
        mlflow.pyfunc.save_model(
            str(folder),
            loader_module=f"{_PACKAGE}.training.{Path(served_images.__file__).stem}",
            data_path=str(parts),
            code_paths=[str(code)],
            signature=served_images.SIGNATURE,
            input_example=as_table(images),
            pip_requirements=_requirements("torch", "torchvision", "mlflow", "numpy", "pillow", "simplejpeg"),
            metadata=dict(metadata),
        )
    return served_images.SIGNATURE


def as_table(images: Tensor) -> Any:
    """Return a table of pandas with images (N, C, H, W), uint8, as PNG files: the input of an image model."""
    return pd.DataFrame({served_images.ENCODED: [_as_png(image) for image in images]})


def _as_png(image: Tensor) -> bytes:
    """Return an image (C, H, W), uint8, as the content of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy()).save(file, "png")
    return file.getvalue()


def _requirements(*packages: str) -> list[str]:
    """Return the installed versions. To find the packages by itself, MLflow would load the model in a new process."""
    return [f"{package}=={version(package)}" for package in packages]


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
        answer = outputs.numpy() if output_name is None else {output_name: outputs.numpy()}
        signature = infer_signature(inputs.numpy(), answer)
        mlflow.pytorch.save_model(
            model,
            str(folder),
            serialization_format="pt2",
            signature=signature,
            input_example=inputs.numpy(),
            pip_requirements=_requirements("torch", "mlflow", "numpy"),
            metadata=dict(metadata),
        )
    check_served(mlflow.pytorch.load_model(str(folder)), model, inputs)
    return signature


def check_served(served: Callable[[Tensor], Tensor], model: nn.Module, inputs: Tensor) -> None:
    """Compare a saved program with its model at batch sizes other than that of the export, which is two or more.

    Raises:
        ValueError: It does not accept such a batch, or has other outputs than the model.
    """
    inputs = torch.cat([inputs[:2], inputs[:1]])
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
