import shlex

from project.engine.tracking.description import describe_fit, describe_study


def test_the_description_of_a_run_has_result_and_commands() -> None:
    note = describe_fit(
        "A net on data.", ["data: 2 images"], {"test/f1": 0.98765}, {"resume": "fit --resume 1"}, "End."
    )
    table = "| metric | value |\n| --- | --- |\n| test/f1 | &emsp;0.9877 |"
    block = "```bash\n# resume\nfit --resume 1\n```"
    assert note == f"A net on data.\n\n**test/f1 0.9877**. End.\n\n{table}\n\ndata: 2 images\n\n{block}"
    assert "There is no result yet." in describe_fit("A net.", [], {}, {})


def test_the_description_of_a_study_ends_with_its_table() -> None:
    note = describe_study("A study.", {"complete": 30, "failed": 0}, "Best: 1.", {"train": "fit"}, "| trial |")
    assert note == "A study.\n\nTrials: 30 complete. Best: 1.\n\n```bash\n# train\nfit\n```\n\n| trial |"


def test_a_long_command_is_broken_before_options_and_stays_the_same() -> None:
    words = ["python", "-m", "project.fit", *(f"--model.net.option_{n}=a -b {n}" for n in range(8))]
    note = describe_fit("A net.", [], {}, {"train": shlex.join(words)})
    command = note.partition("# train\n")[2].removesuffix("\n```")
    assert max(map(len, command.splitlines())) <= 110
    assert shlex.split(command.replace("\\\n", "")) == words
