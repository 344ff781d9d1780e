"""The compared trainings. Each one differs from its peer by the options in its name."""

from collections.abc import Sequence
from dataclasses import dataclass

LOADING, LOGGING = "--data.workers.num=0", "--tracking.asynchronous=false"
CHECKPOINTS = "--checkpoint.asynchronous=false"
SYNCHRONOUS = (LOADING, LOGGING, CHECKPOINTS)
SEQUENTIAL, TRIALS = "sequential", "trials one by one"


@dataclass(frozen=True)
class Cell:
    """A training, or a sweep of trainings.

    Attributes:
        name: Name in the table.
        peer: Name of the cell that it is compared with; empty for none.
        options: Options of `project.fit`.
        sentence: When it is useful and when it is not.
        processes: Number of processes of one training.
        jobs: Number of trials of `project.sweep` that run at the same time; 0 is one `project.fit`.
    """

    name: str
    peer: str
    options: tuple[str, ...]
    sentence: str
    processes: int = 1
    jobs: int = 0


def make_cells(processes: Sequence[int], *, compiler: bool = True) -> list[Cell]:
    """Return all cells.

    Args:
        processes: Numbers of processes for ddp and fsdp, in ascending order; the last one is combined with the
            asynchronous options, and is the number of parallel trials.
        compiler: Whether there is a C++ compiler, which `torch.compile` needs on CPUs.
    """
    most = processes[-1]
    return [
        Cell(SEQUENTIAL, "", SYNCHRONOUS, "One process that loads, computes, logs and saves in turn."),
        Cell(
            "asynchronous loading", SEQUENTIAL, (LOGGING, CHECKPOINTS),
            "Useful if loading is slow and cores are idle; not for images in memory, or if compute fills all cores.",
        ),
        Cell(
            "asynchronous logging", SEQUENTIAL, (LOADING, CHECKPOINTS),
            "Useful if steps are short and logged often, or the store is remote; not if one step in fifty is logged.",
        ),
        Cell(
            "asynchronous checkpoints", SEQUENTIAL, (LOADING, LOGGING),
            "Useful if models are large or epochs short; it needs memory for a copy of the state.",
        ),
        Cell(
            "all asynchronous", SEQUENTIAL, (),
            "The default: training waits less, and the results are the same.",
        ),
        *(strategy_cell(strategy, count) for strategy in ("ddp", "fsdp") for count in processes),
        Cell(
            "bf16-mixed", SEQUENTIAL, (*SYNCHRONOUS, "--precision=bf16-mixed"),
            "Useful on GPUs and on CPUs with bf16 units (AMX, AVX512-BF16); not on others, which emulate it.",
        ),
        *([Cell(
            "compiled", SEQUENTIAL, (*SYNCHRONOUS, "--model.compile=true"),
            "Useful in long trainings of nets with many small operations; not if training is shorter than compiling.",
        )] if compiler else []),
        Cell(
            TRIALS, "", SYNCHRONOUS, "A sweep over seeds; each trial has all cores.", jobs=1,
        ),
        Cell(
            "trials in parallel", TRIALS, SYNCHRONOUS,
            "Useful if one training cannot use all cores, as with small nets; not if memory is short.", jobs=most,
        ),
        Cell(
            "asynchronous trials in parallel", TRIALS, (),
            "Both families; they share the cores, so that the gains do not multiply.", jobs=most,
        ),
        *([Cell(
            f"asynchronous ddp, {most} processes", SEQUENTIAL, ("--strategy=ddp", f"--devices={most}"),
            "Both families in one training; asynchronous work takes time from the cores of the processes.",
            processes=most,
        )] if most > 1 else []),
    ]  # fmt: skip


def strategy_cell(strategy: str, count: int) -> Cell:
    """Return the sequential training with a strategy and a number of processes."""
    sentences = {
        "ddp": "Useful if a step takes much longer than the exchange of its gradients; not for small nets and batches.",
        "fsdp": "Useful if weights and optimizer state do not fit one device; otherwise, ddp exchanges less.",
    }
    alone = "The cost of the strategy for one process, without a gain."
    return Cell(
        f"{strategy}, {count} process{'es' if count > 1 else ''}",
        SEQUENTIAL,
        (*SYNCHRONOUS, f"--strategy={strategy}", f"--devices={count}"),
        sentences[strategy] if count > 1 else alone,
        processes=count,
    )
