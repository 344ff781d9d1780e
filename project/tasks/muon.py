"""The optimizer Muon for the weights of convolutions, with SGD for all other parameters."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.sgd import sgd

_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 3


class Muon(Optimizer):
    """Orthogonal updates for weights with two or more dimensions; SGD with Nesterov momentum for the groups that ask.

    `torch.optim.Muon` takes only matrices, and no other optimizer beside it. Here a weight (O, I, H, W) is a matrix
    (O, I * H * W), whose norm is kept, because batch norm makes it irrelevant.

    Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.

    Args:
        params: Parameters or groups; a group with `orthogonal: false` has SGD, and may have its own `momentum`.
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
    momentum, by_shape = group["momentum"], defaultdict[torch.Size, list[tuple[Tensor, Tensor]]](list)
    for parameter, average in zip(parameters, averages, strict=True):
        gradient = _gradient(parameter)
        average.mul_(momentum).add_(gradient)
        parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
        by_shape[parameter.shape].append((parameter, gradient.add(average, alpha=momentum)))
    for some in by_shape.values():
        updates = orthogonal(torch.stack([update.flatten(1) for _, update in some]))
        for (parameter, _), update in zip(some, updates, strict=True):
            parameter.add_(update.view(parameter.shape), alpha=-group["lr"])


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


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
