import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import MagicMock, patch

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from project.engine.training import stop
from project.engine.training.stop import Interrupted, Interrupts


class Ranks:
    """Two ranks that test in one process; their batches take different times.

    Attributes:
        asked: Number of times that they asked each other.
    """

    def __init__(self) -> None:
        trainer = MagicMock(world_size=2, callbacks=[])
        trainer.state.fn = TrainerFn.TESTING
        self.ranks = [Interrupts(), Interrupts()]
        self.asked = 0
        self._trainer, self._clocks, self._now = trainer, [0.0, 0.0], 0.0
        self._questions: list[Tensor] = []
        for rank in self.ranks:
            rank.setup(trainer, MagicMock(), "test")

    @classmethod
    @contextmanager
    def started(cls) -> Iterator["Ranks"]:
        """Return ranks whose clock and collectives are replaced for a block of code."""
        with patch("torch.distributed.new_group"):
            ranks = cls()
        with patch("torch.distributed.all_reduce", ranks._ask), patch.object(stop, "monotonic", lambda: ranks._now):
            yield ranks

    def _ask(self, question: Tensor, *_: object, **__: object) -> SimpleNamespace:
        self._questions.append(question)
        return SimpleNamespace(wait=lambda: None)

    def start_loop(self) -> None:
        """Start another loop on both ranks."""
        for rank in self.ranks:
            rank.on_validation_start(self._trainer, MagicMock())

    def end_batch(self, seconds: Sequence[float]) -> set[int]:
        """End a batch on both ranks, which took each so many seconds; return the ranks that stop."""
        stopped = set()
        for index, rank in enumerate(self.ranks):
            self._clocks[index] += seconds[index]
            self._now = self._clocks[index]
            try:
                rank.on_test_batch_end(self._trainer, rank._group, None, None, 0)  # type: ignore[arg-type]
            except Interrupted:
                stopped.add(index)
        if self._questions:
            assert len(self._questions) == 2  # Otherwise, one would wait forever.
            answer = torch.stack(self._questions).amax(0)
            for question in self._questions:
                question.copy_(answer)
            self._questions = []
            self.asked += 1
        return stopped


_SECONDS = st.floats(1e-4, 10)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(_SECONDS, _SECONDS), min_size=1, max_size=40), st.data())
def test_ranks_ask_and_stop_together_whatever_their_speed(
    times: list[tuple[float, float]], data: st.DataObject
) -> None:
    signalled = data.draw(st.integers(0, len(times) - 1))
    with Ranks.started() as ranks:
        for batch in range(len(times) + 21):  # At most 20 batches are between two questions.
            if batch == signalled:
                ranks.ranks[1].signum = signal.SIGTERM
            if stopped := ranks.end_batch(times[min(batch, len(times) - 1)]):
                assert stopped == {0, 1}
                assert batch > signalled
                return
    raise AssertionError("the ranks did not stop")


def test_ranks_ask_five_times_a_second_but_after_each_slow_batch() -> None:
    with Ranks.started() as fast:
        for _ in range(200):
            fast.end_batch([0.02, 0.01])
    with Ranks.started() as slow:
        for _ in range(20):
            slow.end_batch([0.1, 0.3])
    assert fast.asked in range(20, 25)
    assert slow.asked == 20


def test_ranks_ask_after_the_first_slow_batch_of_another_loop() -> None:
    with Ranks.started() as ranks:
        for _ in range(60):
            ranks.end_batch([0.005, 0.005])
        before = ranks.asked
        ranks.start_loop()
        ranks.end_batch([5, 5])
    assert ranks.asked == before + 1
