"""An evaluation with everything around it: checks before it starts, and the release of its resources."""

import hashlib
import json
import os
import re
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from lightning.pytorch.utilities.model_helpers import is_overridden
from mlflow import MlflowClient
from mlflow.entities import Run
from torch import Tensor

from project.engine.cli.errors import exit_on_bad_input
from project.engine.cli.trainer_checks import check_lengths
from project.engine.comparison.champion import register_challenger
from project.engine.evaluation import Evaluation
from project.engine.inference.collector import OutputCollector
from project.engine.inference.evaluation_cli import EvaluationCLI
from project.engine.inference.options import parse_evaluation
from project.engine.inference.report import print_scores
from project.engine.inference.tables import HIT, PREDICTIONS, RESAMPLES, write_resamples, write_table
from project.engine.inference.trained_run import TrainedRun, find_trained_run
from project.engine.runtime.rendezvous import FirstProcess, prepare_rendezvous
from project.engine.runtime.startup import update_activity
from project.engine.task import Task
from project.engine.tracking import store
from project.engine.tracking.best_effort import best_effort
from project.engine.tracking.names import EVALUATION
from project.engine.tracking.registered import check_name, logged_model
from project.engine.tracking.secrets import redact_options
from project.engine.training.job import check_can_shard
from project.engine.training.scoring import merged
from project.engine.training.stop import interruptible_command
from project.engine.training.supervision import Supervisor

_CHILDREN_USE = "PROJECT_EVALUATION"
"""Set for the processes that Lightning starts: the result of the checks."""


class EvaluationJob:
    """An evaluation that is built and checked.

    Attributes:
        run: The evaluated run.
        cli: Data, model and trainer.
        split: The split; known after the checks.
    """

    def __init__(
        self, argv: Sequence[str], run: TrainedRun, cli: EvaluationCLI, collector: OutputCollector, register: str | None
    ) -> None:
        self._argv, self.run, self.cli, self._collector, self._register = argv, run, cli, collector, register
        self.trainer, self.model, self.data = cli.trainer, cli.model, cli.data
        self.logger = cli.logger if self.trainer.loggers else None
        self.split = self._digest = ""
        self._scored = 0

    def complete(self) -> None:
        """Score, print the scores, store them, and register the model if `--register` is given."""
        metrics, added = self.score()
        if self.trainer.is_global_zero:
            print_scores(metrics, added, self.split, self.cli.logger.prefix, self._scored or self.samples)
        self.store(added)
        self.register()

    def score(self) -> tuple[dict[str, float], Evaluation]:
        """Return the metrics that the model logs, as at the end of `fit`, and what its task adds.

        All ranks take part; only the first one gets what the task adds.
        """
        evaluate = self.trainer.test if self.split == "test" else self.trainer.validate
        with warnings.catch_warnings():
            # The averaged weights, which were validated in training, are those of the checkpoint.
            warnings.filterwarnings("ignore", "You're using the WeightAveraging callback, but loading a checkpoint")
            metrics = merged(evaluate(self.model, self.cli.datamodule, ckpt_path=self.run.checkpoint, verbose=False))
        gathered = self._collector.gather(self.trainer, self.samples)
        reason = f" ({self._collector.absent})" if self._collector.absent else ""
        added = Evaluation(absent=(f"intervals, further scores and predictions of each sample{reason}",))
        if self.trainer.is_global_zero and gathered is not None and isinstance(self.model, Task):
            self._scored = len(gathered[1])
            self._digest = _digest_of(self.data.split_digest(self.split), gathered[1])
            with best_effort(self.logger, "evaluation", "the evaluation has only the metrics of the model"):
                added = self.model.evaluation(*gathered)
        return metrics, added

    def store(self, added: Evaluation) -> None:
        """Add metrics, tables and figures to the run; on ranks other than the first, do nothing."""
        logger, split = self.logger, self.split
        if logger is None or not self.trainer.is_global_zero:
            return
        logger.log_metrics({f"{split}/{name}": value for name, value in added.scores.items()})
        for name, (low, high) in added.intervals.items():
            logger.log_metrics({f"{split}/{name}_low": low, f"{split}/{name}_high": high})
        for name, columns in added.tables.items():
            logger.log_file(partial(write_table, columns), f"{split}/{name}.csv", "evaluation")
        if samples := {**added.samples, **{f"{HIT}{name}": hits for name, hits in added.hits.items()}}:
            logger.log_file(partial(write_table, self._identified(samples)), f"{split}/{PREDICTIONS}", "evaluation")
        if added.draws:
            resamples = partial(write_resamples, added.draws, added.modes, self._digest)
            logger.log_file(resamples, f"{split}/{RESAMPLES}", "evaluation")
        command = shlex.join(["python", "-m", "project.evaluate", *redact_options(self._argv)])
        logger.set_tags({f"{logger.prefix}{split}": command})
        client = MlflowClient(store.tracking_uri())  # `connect` fails if the store does not respond any more.
        logger.deliver(client, self.run.status, self.run.end_time)

    def register(self) -> None:
        """Register the model if `--register` names one; on ranks other than the first, do nothing.

        Raises:
            SystemExit: 2 if the store does not take it.
        """
        if self._register is not None and self.trainer.is_global_zero:
            with exit_on_bad_input():
                print(register_challenger(store.connect(), self.run.run_id, self._register, self.split), flush=True)

    def _identified(self, samples: Mapping[str, Any]) -> dict[str, Any]:
        count = len(next(iter(samples.values())))
        names = self.data.sample_names(self.split)
        return {"index": range(count), **({"path": list(names)[:count]} if names else {}), **samples}

    @property
    def samples(self) -> int | None:
        """Number of samples in the split; None if unknown."""
        return self.data.sizes().get(self.split)

    def check(self, wanted: str | None) -> tuple[str, str]:
        """Load the data, and return the split and the start of the names of its metrics in the run, such as `eval/`.

        Raises:
            ValueError: The data have no such split, or the model cannot evaluate it.
        """
        self.data.prepare_data()
        self.data.setup("test")
        has_test = self.data.has_test and is_overridden("test_step", self.model)
        if wanted == "test" and not has_test:
            lacks = "the data have no test split" if not self.data.has_test else "the model has no test_step"
            raise ValueError(f"--split: got test, but {lacks}; give --split val")
        split = wanted or ("test" if has_test else "val")
        has_val = is_overridden("val_dataloader", self.cli.datamodule)
        if split == "val" and not (has_val and is_overridden("validation_step", self.model)):
            raise ValueError("--split: the data and the model have no validation; they cannot be evaluated")
        if not getattr(self.trainer, f"limit_{split}_batches"):
            raise ValueError(f"--trainer.limit_{split}_batches: got 0; give --trainer.limit_{split}_batches 1.0")
        counts = self.data.batch_counts(self.trainer.world_size)
        check_lengths(self.trainer, {split: counts[split]} if counts else {})
        client = store.connect()
        run = client.get_run(self.run.run_id)
        other = "" if self._is_own_data(run) else f"{_as_name(self.data.name)}/"
        if self._register is not None:
            check_name(client, self._register)
            logged_model(client, run)
            if other:
                raise ValueError(f"--register: got other data than those of run {self.run.run_id}; leave out --data")
            if self.logger is None:
                raise ValueError("--register: got --trainer.logger false too, which stores no predictions; omit it")
        for line in (self.run.line(), *self.data.found()):
            print(line, flush=True)
        return split, f"{EVALUATION}/{other}"

    def _is_own_data(self, run: Run) -> bool:
        """Return whether the data are those of the run's training: by their digest, or else by the options."""
        digests = {one.dataset.digest for one in run.inputs.dataset_inputs} if run.inputs else set()
        if digest := self.data.digest():
            return digest in digests
        return not any(option == "--data" or option.startswith("--data.") for option, _ in self.cli.command.pairs)


@contextmanager
def open_evaluation(argv: Sequence[str]) -> Iterator[EvaluationJob]:
    """Build and check an evaluation for a block of code.

    Args:
        argv: The run, and options.

    Raises:
        SystemExit: 2 if the input is bad; 130 or 143 if this process is interrupted.
    """
    with interruptible_command("nothing was added to the run") as interrupts:
        own, options = parse_evaluation(argv)
        update_activity("checking run, data and model")
        with exit_on_bad_input():
            first_process = FirstProcess()
            run = TrainedRun(*first_process.compute("trained run", lambda: find_trained_run(own.run)))
            collector = OutputCollector()
            job = EvaluationJob(
                argv, run, EvaluationCLI(run, options, [interrupts, collector]), collector, own.register
            )
            check_can_shard(job.trainer, job.model)
            if (known := os.environ.get(_CHILDREN_USE)) is None:
                known = json.dumps(first_process.compute("checks", lambda: job.check(own.split)))
                os.environ[_CHILDREN_USE] = known
            job.split, job.cli.logger.prefix = json.loads(known)
            _store = prepare_rendezvous(job.trainer)  # It serves the other processes while this function runs.
        with Supervisor(job.trainer, lambda *_: "nothing was added to the run"):
            yield job


def _as_name(text: str) -> str:
    """Return a text with only the characters that MLflow allows in the name of a metric, without slashes."""
    return re.sub(r"[^\w.: -]+", "-", text, flags=re.ASCII)


def _digest_of(data: str, targets: Tensor) -> str:
    """Return 8 hexadecimal digits that change with the data's digest and the targets of all samples, (N, ...)."""
    return hashlib.sha256(data.encode() + targets.contiguous().numpy().tobytes()).hexdigest()[:8]
