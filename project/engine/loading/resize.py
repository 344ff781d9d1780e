"""Resizing of a part of each image in a batch to a square, on the device of the batch."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from project.engine.loading.decode import write_resized
from project.engine.loading.threads import one_core_a_thread


def resized_parts(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Resize a part of each image, with antialiasing.

    Args:
        images: (N, C, H, W) uint8.
        boxes: (N, 4) int64, on the CPU or on the device of the images: top, left, height, width.
        size: Side of the result in pixels.

    Returns:
        (N, C, size, size) uint8.
    """
    return (_resized_by_image if images.device.type == "cpu" else resized_by_matrix)(images, boxes, size)


def nearest_parts(masks: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Resize a part of each mask to its nearest values.

    Args:
        masks: (N, H, W), any dtype.
        boxes: (N, 4) int64: top, left, height, width.
        size: Side of the result in pixels.

    Returns:
        (N, size, size), the dtype of `masks`.
    """
    first, length = boxes.to(masks.device).view(-1, 2, 2, 1).unbind(1)
    centres = 2 * torch.arange(size, device=masks.device) + 1  # In halves of a pixel of the result.
    rows, columns = (first + centres * length // (2 * size)).unbind(1)
    return masks[torch.arange(len(masks), device=masks.device).view(-1, 1, 1), rows.unsqueeze(2), columns.unsqueeze(1)]


def resized_by_matrix(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Resize a part of each image by two matrix products with the weights of the antialiasing filter.

    Args:
        images: (N, C, H, W) uint8.
        boxes: (N, 4) int64: top, left, height, width.
        size: Side of the result in pixels.

    Returns:
        (N, C, size, size) uint8.
    """
    top, left, height, width = boxes.to(images.device).unbind(1)
    rows = _triangle_filter(top, height, images.shape[2], size)
    columns = _triangle_filter(left, width, images.shape[3], size)
    resized = rows.unsqueeze(1) @ images.float() @ columns.unsqueeze(1).transpose(2, 3)
    return resized.round().clamp(0, 255).byte()


def _triangle_filter(first: Tensor, length: Tensor, available: int, size: int) -> Tensor:
    # (N, size, available): each row holds the weights of the input pixels for one pixel of the result.
    scale = (length / size).view(-1, 1, 1)
    reach = scale.clamp(min=1.0)
    centre = (torch.arange(size, device=first.device).view(1, -1, 1) + 0.5) * scale
    offset = torch.arange(available, device=first.device).view(1, 1, -1) - first.view(-1, 1, 1)
    weights = (1 - (offset + 0.5 - centre).abs() / reach).clamp(min=0.0)
    weights = weights * ((offset >= 0) & (offset < length.view(-1, 1, 1)))
    return weights / weights.sum(2, keepdim=True)


def _resized_by_image(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    out = torch.empty((len(images), size, size, images.shape[1]), dtype=torch.uint8)
    sources, targets = images.permute(0, 2, 3, 1).numpy(), out.numpy()
    with ThreadPoolExecutor(torch.get_num_threads(), initializer=one_core_a_thread) as threads:
        list(threads.map(write_resized, sources, boxes.tolist(), targets))
    return out.permute(0, 3, 1, 2)
