"""The formats of an exported model: functions that write it, and that load it again for the check."""

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import mlflow.pyfunc
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from project.engine.task import Task
from project.engine.training.serving import as_table, save_served_model

NAMES = "names"
"""Key of the names of the classes, a JSON list, in the metadata of a PT2 or an ONNX file."""

_INPUT, _OUTPUT = "images", "probabilities"

Program = Callable[[Tensor], Tensor]
"""Maps images (N, H, W, C), uint8, to probabilities (N, names)."""


class TrainedModel(NamedTuple):
    """A trained model to export.

    Attributes:
        task: The trained task, on the CPU, in evaluation mode.
        module: Maps images (N, C, size, size), uint8, to probabilities (N, names).
        names: Names of the classes.
        examples: Two or more images, (N, C, size, size) uint8.
        decoding: How the files of its data were decoded.
    """

    task: Task
    module: nn.Module
    names: Sequence[str]
    examples: Tensor
    decoding: dict[str, Any]


class AnySize(nn.Module):
    """A model for images of any size: the largest square in the middle of each one is resized with antialiasing.

    Args:
        model: Maps images (N, C, size, size), uint8, to probabilities (N, names).
        size: Side of the squares in pixels.
    """

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, H, W, C), uint8, to probabilities (N, names)."""
        height, width = images.shape[1:3]
        side = torch.sym_min(height, width)
        # The strides of a view depend on the sizes, and would restrict the program to sizes like those of the example.
        offsets = torch.arange(side, device=images.device)
        square = images.index_select(1, offsets + (height - side) // 2).index_select(2, offsets + (width - side) // 2)
        resized = F.interpolate(
            square.permute(0, 3, 1, 2), size=(self.size, self.size), mode="bilinear", antialias=True
        )
        probabilities: Tensor = self.model(resized)
        return probabilities


def write_mlflow(model: TrainedModel, path: Path) -> None:
    """Write the folder of an MLflow model, which `mlflow models serve` takes."""
    save_served_model(path, model.task, model.examples, model.decoding)


def load_mlflow(path: Path) -> Program:
    """Return the model that `write_mlflow` wrote; images reach it as PNG files."""
    model = mlflow.pyfunc.load_model(str(path))

    def program(images: Tensor) -> Tensor:
        rows = model.predict(as_table(images.permute(0, 3, 1, 2)))
        return torch.tensor([list(row[_OUTPUT].values()) for row in rows])

    return program


def write_pt2(model: TrainedModel, path: Path) -> None:
    """Write a program of torch.export, with the names in the extra file `names`."""
    torch.export.save(_exported(model), path, extra_files={NAMES: json.dumps(list(model.names))})


def load_pt2(path: Path) -> Program:
    """Return the program that `write_pt2` wrote."""
    program: Program = torch.export.load(path).module()
    return program


def write_onnx(model: TrainedModel, path: Path) -> None:
    """Write an ONNX model, with the names in its metadata."""
    written = torch.onnx.export(_exported(model), input_names=[_INPUT], output_names=[_OUTPUT], verbose=False)
    assert written is not None
    written.model.metadata_props[NAMES] = json.dumps(list(model.names))
    written.save(path, external_data=False)


def load_onnx(path: Path) -> Program:
    """Return the model that `write_onnx` wrote, as onnxruntime runs it."""
    import onnxruntime  # an extra

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([_OUTPUT], {_INPUT: np.ascontiguousarray(images)})[0])


def missing_packages(format_: str) -> list[str]:
    """Return the packages of the extra that a format needs and that are not installed."""
    return [name for name in ("onnx", "onnxscript", "onnxruntime") if format_ == "onnx" and find_spec(name) is None]


def _exported(model: TrainedModel) -> torch.export.ExportedProgram:
    batch, any_side = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
    size = model.examples.shape[-1]
    # The sides differ from each other and from those of the model, because torch would treat equal ones as fixed.
    example = F.interpolate(model.examples[:2], size=(size + 3, size + 8)).permute(0, 2, 3, 1).contiguous()
    return torch.export.export(
        AnySize(model.module, size), (example,), dynamic_shapes=({0: batch, 1: any_side, 2: any_side},)
    )


FORMATS: dict[str, tuple[Callable[[TrainedModel, Path], None], Callable[[Path], Program]]] = {
    "mlflow": (write_mlflow, load_mlflow),
    "pt2": (write_pt2, load_pt2),
    "onnx": (write_onnx, load_onnx),
}
"""By name: the function that writes the file, and the function that loads it."""
