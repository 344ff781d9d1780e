import pytest

from project.fit import main


@pytest.mark.parametrize(("options", "names"), [
    ([], ["--data.batch_size", "--data.augmentation.cutout", "--model.label_smoothing", "--checkpoint.monitor"]),
    (["--data", "image_folder"], ["--data.root", "--data.on_bad_image"]),
])  # fmt: skip
def test_help_describes_the_options_of_the_chosen_data_and_model(
    options: list[str], names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([*options, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in names)
    assert "known subclasses" not in " ".join(text.split())
