"""A trial that does not train, for measuring the overhead of a sweep."""

from collections.abc import Sequence

from lightning import Callback

from project.engine.search.reporter import Reporter


def main(argv: Sequence[str], callbacks: Sequence[Callback]) -> None:
    """Report the number of `--x=NUMBER` as the metric; the process of a trial calls this."""
    reporter = callbacks[0]
    assert isinstance(reporter, Reporter)
    reporter.record({"val/accuracy": float(argv[0].partition("=")[2])})
