"""The model that MLflow serves for images: encoded or decoded images in, names and probabilities out.

A saved model contains a copy of this file and of the files that it imports. It therefore works without this project,
and after changes of this project. Therefore, the imports are relative.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType, Map
from torch import Tensor

from ..loading.decode import UNREADABLE, Pixels
from ..loading.square import to_grey, write_square

COPIED = ("loading/decode.py", "loading/square.py", "training/served_images.py")
"""This file and the files that it imports, relative to their common folder."""

ENCODED, PIXELS = "image", "pixels"
SIGNATURE = ModelSignature(
    Schema([ColSpec(DataType.binary, ENCODED, required=False), ColSpec(AnyType(), PIXELS, required=False)]),
    Schema(
        [
            ColSpec(DataType.string, "class"),
            ColSpec(DataType.double, "probability"),
            ColSpec(Map(DataType.double), "probabilities"),
        ]
    ),
)
COLUMNS = SIGNATURE.inputs.input_names()
_PROGRAM, _SETTINGS = "model.pt2", "images.json"
_BATCH = 64
_WANTED = (
    f"each row needs `{ENCODED}`, the content of an image file (in JSON as base64), or `{PIXELS}`, an array (H, W, C) "
    "or (H, W) of numbers from 0 to 255"
)


class ImageModel:
    """A model that decodes, crops and resizes images as the validation of its training did.

    Args:
        program: Maps images (N, C, size, size), uint8, to probabilities (N, names).
        names: Names of the classes.
        size: Side of the images in pixels.
        channels: Number of their channels, 1 or 3.
        bit_depth: Number of bits of the values in 16-bit files.
    """

    def __init__(
        self, program: torch.nn.Module, names: Sequence[str], size: int, channels: int, bit_depth: int
    ) -> None:
        self._program, self._names = program, names
        self._size, self._channels, self._bit_depth = size, channels, bit_depth

    @classmethod
    def load(cls, folder: Path) -> "ImageModel":
        """Load what `save` wrote."""
        return cls(torch.export.load(folder / _PROGRAM).module(), **json.loads((folder / _SETTINGS).read_text()))

    def predict(self, inputs: Any) -> list[dict[str, Any]]:
        """Return class, probability and all probabilities of each image.

        Args:
            inputs: Table of pandas with the columns of `SIGNATURE`.

        Raises:
            MlflowException: An image cannot be decoded, or its array is not an image. The server answers 400.
        """
        if not len(inputs.columns):  # MLflow has removed columns that are not in the signature, and with them the rows.
            raise MlflowException.invalid_parameter_value(_WANTED)
        rows = inputs.to_dict("records")
        predictions: list[dict[str, Any]] = []
        for first in range(0, len(rows), _BATCH):
            images = torch.stack([self._image(row, first + n) for n, row in enumerate(rows[first : first + _BATCH])])
            predictions += map(self._prediction, self.probabilities(images).tolist())
        return predictions

    def probabilities(self, images: Tensor) -> Tensor:
        """Map images (N, C, size, size), uint8, to probabilities (N, names)."""
        with torch.no_grad():
            probabilities: Tensor = self._program(images)
        return probabilities

    def _prediction(self, probabilities: list[float]) -> dict[str, Any]:
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        by_name = dict(zip(self._names, probabilities, strict=True))
        return {"class": self._names[best], "probability": probabilities[best], "probabilities": by_name}

    def _image(self, row: Mapping[str, Any], number: int) -> Tensor:
        """Return the image of a row, (C, size, size) uint8."""
        encoded, pixels = row.get(ENCODED), row.get(PIXELS)
        square = np.empty((self._size, self._size, 3), np.uint8)
        try:
            image = _without_base64(encoded) if isinstance(encoded, bytes) else _colours(pixels)
            write_square(image, square, bit_depth=self._bit_depth)
        except UNREADABLE as error:
            raise MlflowException.invalid_parameter_value(f"row {number}: {error}") from error
        images = torch.from_numpy(square).permute(2, 0, 1)[None]
        return (to_grey(images) if self._channels == 1 else images)[0]


def _without_base64(content: bytes) -> bytes:
    """Return the content of a file. MLflow decodes it for `dataframe_records`, but not for `instances` and `inputs`."""
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error:  # An image file contains bytes that base64 does not have.
        return content


def _colours(pixels: Any) -> Pixels:
    """Return an array (H, W), (H, W, 1) or (H, W, 3) of numbers from 0 to 255 as RGB.

    Raises:
        ValueError: It is another array.
    """
    array = np.asarray(pixels)
    shape = array.shape if array.ndim == 3 else (*array.shape, 1)
    if len(shape) != 3 or shape[2] not in (1, 3) or not array.size or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"got {array.dtype} values with the shape {array.shape}; {_WANTED}")
    if array.min() < 0 or array.max() > 255:
        raise ValueError(f"got numbers from {array.min()} to {array.max()}; {_WANTED}")
    return np.ascontiguousarray(np.broadcast_to(array.reshape(shape), (*shape[:2], 3)), dtype=np.uint8)


def save(
    folder: Path, program: torch.export.ExportedProgram, names: Sequence[str], size: int, channels: int, bit_depth: int
) -> None:
    """Write a model to a new folder; see `ImageModel`."""
    folder.mkdir()
    torch.export.save(program, folder / _PROGRAM)
    settings = {"names": list(names), "size": size, "channels": channels, "bit_depth": bit_depth}
    (folder / _SETTINGS).write_text(json.dumps(settings))


def _load_pyfunc(folder: str) -> ImageModel:
    return ImageModel.load(Path(folder))
