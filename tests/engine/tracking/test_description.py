from project.engine.tracking.description import describe_fit, describe_study


def test_the_description_of_a_run_has_result_and_commands() -> None:
    note = describe_fit(
        "A net on data.", ["data: 2 images"], {"test/f1": 0.98765}, {"resume": "fit --resume 1"}, "End."
    )
    table = "| metric | value |\n| --- | --- |\n| test/f1 | 0.9877 |"
    block = "```bash\n# resume\nfit --resume 1\n```"
    assert note == f"A net on data.\n\ndata: 2 images\n\nEnd.\n\n{table}\n\n{block}"
    assert "There is no result yet." in describe_fit("A net.", [], {}, {})


def test_the_description_of_a_study_has_the_best_trials() -> None:
    rows = [[number, 0.5, "a|b"] for number in range(30)]
    note = describe_study(
        "A study.", ["trial", "val/f1", "x"], rows, {"complete": 30, "fail": 0}, {"train": "fit"}, most=2
    )
    assert "Trials: 30 complete.\n" in note
    assert note.count("| 0.5 | a\\|b |") == 2
    assert "The other 28 trials" in note
    assert note.endswith("# train\nfit\n```")
