"""The default learning-rate schedule."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Rises linearly to the optimizer's rate, then falls to zero on half a cosine.

    Source: Loshchilov and Hutter, SGDR, arXiv:1608.03983; Goyal et al., arXiv:1706.02677, for the warmup.

    Args:
        optimizer: Its learning rate is the peak.
        total_steps: Length of the schedule in steps.
        warmup: Share of the steps spent rising, in [0, 1).

    Raises:
        ValueError: `warmup` is out of its range.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: float = 0.1) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"model.lr_schedule.warmup: got {warmup}; it must be in [0, 1)")
        rising = max(1, round(warmup * total_steps))
        falling = max(1, total_steps - rising)

        def factor(step: int) -> float:
            if step < rising:
                return (step + 1) / (rising + 1)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / falling)))

        super().__init__(optimizer, factor)
