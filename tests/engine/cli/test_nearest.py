"""The option that a person may have meant, for words that are not near its name."""

import pytest

from project.engine.cli.nearest import children, suggestion

OPTIONS = ("data.batch_size", "data.workers.num", "devices", "model.optimizer.lr", "seed_everything", "trainer.devices")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("learning_rate", "model.optimizer.lr"),
        ("learning-rate", "model.optimizer.lr"),
        ("num_workers", "data.workers.num"),
        ("seed", "seed_everything"),
        ("gpus", "devices"),
        ("trainer.gpus", "trainer.devices"),
        ("data.bs", "data.batch_size"),
    ],
)
def test_an_option_is_found_by_its_name_in_other_projects(word: str, meant: str) -> None:
    siblings = children(word.rpartition(".")[0], OPTIONS)
    assert suggestion(word, siblings, OPTIONS) == f"did you mean --{meant}?"
