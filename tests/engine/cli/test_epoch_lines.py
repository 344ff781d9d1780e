"""The lines of epochs in a terminal, in a terminal without control characters, and in a file."""

import os
import pty
import re
import threading
from contextlib import redirect_stdout, suppress
from pathlib import Path

import pytest
from conftest import Fit
from test_any_module import Line, Slope, of
from tiny import TINY
from torch import Tensor

from project.engine.cli.epoch_metrics import _is_loss, _parted
from project.engine.cli.epoch_table import Cell, EpochTable, clock
from project.engine.tracking.names import score_text
from project.fit import main

TWO_METRICS = (
    "--model.metrics={f1: torchmetrics.classification.MulticlassF1Score, "
    "recall: torchmetrics.classification.MulticlassRecall}"
)
UNTRACKED = "--trainer.logger=false"  # A fit whose run is not tested is faster.
HARD = "--model.optimizer.lr=0.0001"  # The accuracy changes in several epochs.
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
EPOCH = re.compile(r"^ *\d+(/\d+)? .* \d+\.\d s( +best)?$", re.MULTILINE)


class InBar(Slope):
    """A plain module that shows a loss of steps and epochs, and a score, in the progress bar."""

    monitor, mode = "score", "max"

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("error", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("score", -(self.linear(batch[0]) - batch[1]).square().mean(), prog_bar=True)


def in_terminal(columns: int, name: str, *options: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a fit whose standard output is a terminal, and return what the terminal received."""
    for variable in ("NO_COLOR", "FORCE_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", name)
    monkeypatch.setenv("COLUMNS", str(columns))
    ours, theirs = pty.openpty()
    received: list[bytes] = []

    def read() -> None:
        with suppress(OSError):  # The other end is closed.
            while part := os.read(ours, 1 << 16):
                received.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w") as screen, redirect_stdout(screen):
        main(options)
    reader.join()
    os.close(ours)
    return b"".join(received).decode().replace("\r\n", "\n")


def visible(text: str) -> str:
    """Return the text without control sequences; a line that is written again counts as another line."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")


def rows(text: str) -> list[str]:
    """Return the rows of the table of epochs."""
    return [match[0] for match in EPOCH.finditer(visible(text))]


def history(workplace: Path, metric: str) -> list[float]:
    done = Fit(workplace, 0, "")
    return [point.value for point in done.client.get_metric_history(done.run.info.run_id, metric)]


@pytest.mark.parametrize("columns", [80, pytest.param(120, marks=pytest.mark.faults)])
def test_a_terminal_keeps_a_row_per_epoch(columns: int, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [*TINY, TWO_METRICS, HARD, "--max_epochs=4"]
    text = in_terminal(columns, "xterm-256color", *options, monkeypatch=monkeypatch)
    (header,) = (line.split() for line in visible(text).splitlines() if line.startswith("epoch  "))
    of_val = ["loss", "accuracy", "f1", "recall", "lr", "images/s", "time"]
    of_train = ["loss", "accuracy", "f1", "recall"] if columns == 120 else ["loss"]
    assert header == ["epoch", *of_train, *of_val]
    found = [row.split() for row in rows(text)]
    assert [row[0] for row in found] == ["1/4", "2/4", "3/4", "4/4"]
    assert max(len(line) for line in rows(text)) <= columns
    curve = history(workplace, "val/accuracy")
    place = header.index("accuracy", header.index("loss", 2))
    assert [row[place] for row in found] == [f"{value:.4f}" for value in curve]
    assert [row[1] for row in found] == [f"{value:.4f}" for value in history(workplace, "train/loss_epoch")]
    is_best = [value >= max(curve[: epoch + 1]) for epoch, value in enumerate(curve)]
    assert [row[-1] == "best" for row in found] == is_best
    assert CONTROL.search(text)
    assert "━" in text  # the bar


def test_a_file_has_a_line_with_names_per_epoch(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*TINY, UNTRACKED, "--max_epochs=3", "--trainer.check_val_every_n_epoch=2"])
    text = capsys.readouterr().out
    assert not CONTROL.search(text)
    lines = [line for line in text.splitlines() if line.startswith("epoch ")]
    assert [line.partition(":")[0] for line in lines] == ["epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3"]
    names = [re.findall(r"(\w[\w/ ]*?) [\d.e,-]+(?= s|,|$)", line.partition(": ")[2]) for line in lines]
    train, val = ["train loss", "train accuracy"], ["val loss", "val accuracy"]
    speed = ["lr", "images/s", "time"]
    # The last epoch is always validated. The second one has a score, and the first one has none.
    assert names == [[*train, *speed], [*train, *val, *speed], [*train, *val, *speed]]
    assert lines[0].count("best") == 0
    assert lines[1].endswith(", best so far")


@pytest.mark.parametrize(("options", "epochs", "is_validated"), [
    ([*TINY, "--max_epochs=-1", "--trainer.max_steps=6"], ["1", "2"], True),
    ([*of(Slope, Line), "--max_epochs=2"], ["1/2", "2/2"], False),
    pytest.param([*TINY, "--max_epochs=2", "--trainer.val_check_interval=0.5"], ["1/2", "2/2"], True,
                 marks=pytest.mark.faults),
])  # fmt: skip
def test_rows_of_fits_of_other_lengths_on_a_terminal_without_control_characters(
    options: list[str], epochs: list[str], is_validated: bool, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = in_terminal(80, "dumb", *options, UNTRACKED, monkeypatch=monkeypatch)
    assert [row.split()[0] for row in rows(text)] == epochs
    assert (" val ---" in text) == is_validated
    assert not CONTROL.search(text)
    assert "━" not in text


class Peak(InBar):
    """A plain module whose score is best after the fourth of eight steps."""

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("score", -abs(self.global_step - 4.0), prog_bar=True)


@pytest.mark.faults
def test_the_mark_belongs_to_the_values_in_its_row(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [option.replace("test_any_module.Peak", "test_epoch_lines.Peak") for option in of(Peak)]
    more = ["--max_epochs=2", "--trainer.val_check_interval=0.25"]
    text = in_terminal(80, "dumb", *options, *more, monkeypatch=monkeypatch)
    assert history(workplace, "score") == [-2, 0, -2, -4, -6, -8, -10, -12]
    first, second = (row.split() for row in rows(text))
    assert (first[2], first[-1], second[2]) == ("0.0000", "best", "-12.000")


def test_a_plain_module_has_the_metrics_of_its_progress_bar(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [option.replace("test_any_module.InBar", "test_epoch_lines.InBar") for option in of(InBar)]
    text = in_terminal(80, "dumb", *options, "--max_epochs=2", monkeypatch=monkeypatch)
    (header,) = (line.split() for line in text.splitlines() if line.startswith("epoch  "))
    assert header == ["epoch", "loss", "score", "error", "lr", "samples/s", "time"]
    scores = history(workplace, "score")
    assert [row.split()[2] for row in rows(text)] == [score_text(score) for score in scores]


def test_a_module_without_stages_has_its_losses() -> None:
    names = ["g_loss", "d/loss", "loss_critic", "train_loss", "train_kl_loss", "lossless", "accuracy"]
    assert [name for name in names if _is_loss(*_parted(name))] == names[:4]


def test_without_a_progress_bar_there_are_no_lines(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*TINY, UNTRACKED, "--max_epochs=1", "--trainer.enable_progress_bar=false"])
    assert "epoch 1 of 1: " not in capsys.readouterr().out


def test_rows_are_aligned_to_the_last_epoch() -> None:
    table, places = EpochTable(80), []
    for epoch, lr in (("1/100", "0.002"), ("100/100", "8.5e-05")):
        metrics = [Cell("train", "loss", "0.1234", 1), *(Cell("val", name, "0.1234", 2) for name in "abcd")]
        speed = [Cell("", "lr", lr, 4, 7), Cell("", "images/s", "12,345", 5), Cell("", "time", "12.3 s", 3)]
        cells = [Cell("", "epoch", epoch, least=7), *metrics, *speed, Cell("", "", "best")]
        table.header(cells)
        places.append([match.end() for match in re.finditer(r"[^ ]+", table.row(cells))])
        assert table.row(cells).split()[-3:] == ["12.3", "s", "best"]
    assert places[0] == places[1]


@pytest.mark.parametrize("width", [24, 40, 60, 80])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    table = EpochTable(width)
    metrics = [Cell("val", f"metric_with_a_long_name_{place}", "0.1234", rank=2) for place in range(8)]
    cells = [Cell("", "epoch", "1/2"), Cell("val", "accuracy", "0.1234"), *metrics, Cell("", "", "best")]
    lines = [*table.header(cells), table.row(cells)]
    assert max(map(len, lines)) <= width
    assert lines[-1].split()[:2] == ["1/2", "0.1234"]
    assert lines[-1].endswith("best")
    assert table.header(cells) == []


@pytest.mark.parametrize(("seconds", "text"), [(1.23, "1.2 s"), (59.97, "1:00"), (296, "4:56"), (5025, "1:23:45")])
def test_a_duration_on_the_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
