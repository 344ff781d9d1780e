"""The overhead of a training step that `project.engine.runtime.step_overhead` removes."""

from lightning import Trainer
from lightning.pytorch.profilers import SimpleProfiler

from project.engine.runtime.step_overhead import NoProfiler, reduce_step_overhead


def test_only_the_profiler_of_the_user_records_actions() -> None:
    unprofiled, profiled = Trainer(logger=False), Trainer(logger=False, profiler="simple")
    for trainer in (unprofiled, profiled):
        reduce_step_overhead(trainer)
        with trainer.profiler.profile("action"):
            pass
    assert isinstance(unprofiled.profiler, NoProfiler)
    assert isinstance(profiled.profiler, SimpleProfiler)
    assert list(profiled.profiler.recorded_durations) == ["action"]
