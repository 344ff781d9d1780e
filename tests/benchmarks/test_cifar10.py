import pytest

from benchmarks.cifar10 import USED, steps_in


@pytest.mark.parametrize(
    ("step_s", "validation_s", "steps_per_epoch"), [(0.1, 0.0, 7), (0.5, 4.0, 20), (9.0, 40.0, 25)]
)
def test_the_planned_steps_and_their_validations_fill_the_time(
    step_s: float, validation_s: float, steps_per_epoch: int
) -> None:
    def seconds(steps: int) -> float:
        return steps * step_s + -(-steps // steps_per_epoch) * validation_s

    steps = steps_in(600, step_s, validation_s, steps_per_epoch)
    assert seconds(steps) <= USED * 600
    assert seconds(steps + steps_per_epoch + 1) > USED * 600
