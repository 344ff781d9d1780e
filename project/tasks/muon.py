"""The optimizer Muon for the weights of convolutions, with SGD for all other parameters."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

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
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, momentum = parameter.grad, group["momentum"]
        assert gradient is not None
        if not group["orthogonal"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        average = state["momentum"].mul_(momentum).add_(gradient)
        update = gradient.add(average, alpha=momentum)
        if group["orthogonal"]:
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
            update = orthogonal(update.flatten(1)).view_as(update)
        parameter.add_(update, alpha=-group["lr"])


def orthogonal(matrix: Tensor, iterations: int = _ITERATIONS) -> Tensor:
    """Return a matrix (rows, columns) with the same singular vectors, and singular values near one.

    The polynomial is iterated in bfloat16 on a GPU, and in float32 on the CPU.
    """
    a, b, c = _QUINTIC
    result: Tensor = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    result = result / (result.norm() + 1e-7)
    is_tall = result.shape[0] > result.shape[1]
    result = result.T if is_tall else result
    for _ in range(iterations):
        square = result @ result.T
        result = a * result + (b * square + c * square @ square) @ result
    return (result.T if is_tall else result).to(matrix.dtype)
