"""The optimizer Muon for the weights of convolutions, with SGD for all other parameters."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.sgd import sgd
from typing_extensions import override

_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 3
_SMALLEST_NORM = 1e-7
"""The smallest norm of weights; weights that are all zero stay zero."""


class Muon(Optimizer):
    """Muon for weights with two or more dimensions; SGD with Nesterov momentum for groups with `orthogonal: false`.

    `torch.optim.Muon` takes only matrices, and cannot update other parameters by SGD. Here, a weight (O, I, H, W) is
    treated as a matrix (O, I * H * W). Its norm is set to the square root of O before each update, because batch norm
    makes the norm irrelevant.

    Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.

    Args:
        params: Parameters or groups; a group with `orthogonal: false` is updated by SGD, and may have its own
            `momentum`.
        lr: Learning rate.
        momentum: Momentum, in [0, 1).
        weight_decay: L2 penalty of the groups with SGD.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 0.24, momentum: float = 0.6, weight_decay: float = 0.0
    ) -> None:
        if lr < 0 or not 0 <= momentum < 1 or weight_decay < 0:
            raise ValueError(
                f"got lr {lr}, momentum {momentum}, weight_decay {weight_decay}; lr and weight_decay must be 0 or "
                "more, momentum in [0, 1)"
            )
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "orthogonal": True})

    @override
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own.

        Raises:
            ValueError: A vector would be updated as a matrix.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group["orthogonal"] and (vectors := [tuple(one.shape) for one in group["params"] if one.ndim < 2]):
            raise ValueError(
                f"Muon: got a parameter of shape {vectors[0]}; it updates matrices and filters, and a task must put "
                "all others into a group with `orthogonal: false`, see Task.parameter_groups"
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters that have gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [one for one in group["params"] if one.grad is not None]
            update = _orthogonal_step if group["orthogonal"] else _sgd_step
            update(trained, [self._average(one) for one in trained], group)
        return loss

    def _average(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        average: Tensor = state["momentum"]
        return average


def _sgd_step(parameters: list[Tensor], averages: list[Tensor], group: dict[str, Any]) -> None:
    if parameters:
        sgd(
            parameters, [_gradient(one) for one in parameters], averages,  # type: ignore[arg-type]  # a list of either
            lr=group["lr"], momentum=group["momentum"], weight_decay=group["weight_decay"],
            dampening=0, nesterov=True, maximize=False,
        )  # fmt: skip


def _orthogonal_step(parameters: list[Tensor], averages: list[Tensor], group: dict[str, Any]) -> None:
    if not parameters:
        return
    gradients = [_gradient(one) for one in parameters]
    torch._foreach_mul_(averages, group["momentum"])
    torch._foreach_add_(averages, gradients)
    updates = torch._foreach_add(gradients, averages, alpha=group["momentum"])
    norms = torch._foreach_clamp_min(torch._foreach_norm(parameters), _SMALLEST_NORM)
    scales = torch._foreach_reciprocal(norms)
    torch._foreach_mul_(parameters, torch._foreach_mul(scales, [len(one) ** 0.5 for one in parameters]))
    pad = updates[0].is_cuda and not isinstance(updates[0], DTensor)
    torch._foreach_add_(parameters, orthogonal_updates(updates, pad=pad), alpha=-group["lr"])


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def orthogonal_updates(updates: Sequence[Tensor], *, pad: bool) -> list[Tensor]:
    """Return the results of `orthogonal` for tensors (O, ...), each of which is treated as a matrix (O, columns).

    Args:
        updates: The tensors, of one dtype and on one device.
        pad: Pad all tensors with zeros, so that they are one batch; this does not change the result. A GPU needs less
            time for a few large operations than for many small ones. Without padding, only tensors of equal shape are
            one batch.
    """
    batches = defaultdict[object, list[int]](list)
    for number, update in enumerate(updates):
        batches[None if pad else update.shape].append(number)
    results = list(updates)
    for numbers in batches.values():
        matrices = [updates[number].flatten(1) for number in numbers]
        if pad:
            rows, columns = (max(sizes) for sizes in zip(*(one.shape for one in matrices), strict=True))
            matrices = [F.pad(one, (0, columns - one.shape[1], 0, rows - len(one))) for one in matrices]
        batch = torch.stack(matrices)
        for number, result in zip(numbers, orthogonal(batch), strict=True):
            shape = updates[number].shape
            results[number] = result[: shape[0], : shape[1:].numel()].view(shape)
    return results


def orthogonal(matrices: Tensor, iterations: int = _ITERATIONS) -> Tensor:
    """Return matrices (N, rows, columns) with the same singular vectors, and singular values near one.

    The polynomial is iterated in bfloat16 on a GPU, and in float32 on the CPU.
    """
    a, b, c = _QUINTIC
    result: Tensor = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    result = result / (torch.linalg.matrix_norm(result, keepdim=True) + 1e-7)
    is_tall = result.shape[1] > result.shape[2]
    result = result.mT if is_tall else result
    for _ in range(iterations):
        square = result @ result.mT
        factor = torch.baddbmm(square, square, square, beta=b, alpha=c)
        result = torch.baddbmm(result, factor, result, beta=a)
    return (result.mT if is_tall else result).to(matrices.dtype)
