import pytest

from project.fit import main
from project.sweep import main as sweep

IN_FULL = ["--trainer.max_time", "--data.augmentation.cutout CUTOUT", "--model.label_smoothing", "(type: "]


def printed(capsys: pytest.CaptureFixture[str], command: object, *argv: str) -> str:
    """Return what a command with `--help` prints."""
    with pytest.raises(SystemExit) as end:
        (sweep if command is sweep else main)(argv)
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("options", "rows"), [
    ([], ["  --data                         cifar10, digits, ", "  --model.optimizer.lr 0.002     learning rate",
          "  --data.image_size null         Side of the images in pixels",
          "  --model.net CNN                Makes the net", "  --model.lr_schedule.NAME       warmup\n"]),
    (["--data", "image_folder"], ["  --data.on_bad_image fail       Treatment of files that cannot be decoded"]),
    (["--data=test_any_module.Line", "--model=test_any_module.Slope"],
     ["options of --model (Slope):", "  --model.lr 0.1"]),
])  # fmt: skip
def test_help_is_a_page_on_the_chosen_data_and_model(
    options: list[str], rows: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    page = printed(capsys, main, *options, "--help")
    assert all(f"\n{row}" in page for row in rows)
    lines = page.splitlines()
    assert 25 < len(lines) < 70
    assert max(map(len, lines)) <= 80


def test_the_page_names_each_option_of_data_model_and_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    """An option that is added to a signature is on the page."""
    page, full = printed(capsys, main, "--help"), printed(capsys, main, "--help", "all")
    words = {word.rstrip(",+") for word in full.split() if word.startswith(("--data.", "--model.", "--checkpoint."))}
    names = {name for name in words if not name.endswith(".help")}
    assert {"--data.batch_size", "--data.workers.num", "--model.lr_schedule", "--checkpoint.mode"} <= names
    assert not {name for name in names if f"{name} " not in page and name.rpartition(".")[2] not in page}


def test_help_all_describes_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, main, "--help", "all")
    assert all(name in text for name in IN_FULL)
    assert "known subclasses" not in " ".join(text.split())


@pytest.mark.parametrize(("option", "name"), [("--data.help", "batch_size"), ("--model.net.help", "dropout")])
def test_help_of_a_setting_is_about_the_chosen_class(
    option: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, main, option)
    assert text.startswith("usage: python -m project.fit [")
    assert f"{option.removesuffix('help')}{name} " in text


def test_help_of_a_sweep_is_a_page_and_names_the_options_of_fit(capsys: pytest.CaptureFixture[str]) -> None:
    page = printed(capsys, sweep, "--help")
    assert len(page.splitlines()) < 50
    assert all(name in page for name in ["--search NAME", "--n_trials", "  --strategy  ", "project.fit --help all"])


def test_another_word_after_help_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help", "al"])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "--help: got 'al'; give --help or --help all" in error
    assert len(error.splitlines()) <= 3
