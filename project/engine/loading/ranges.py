"""The check of an option's range."""

from math import inf


def check_range(option: str, value: float, least: float, most: float = inf) -> None:
    """Check that a value is within its range.

    Args:
        option: Name of the option, such as `data.batch_size`.
        value: Its value.
        least: Smallest allowed value.
        most: Largest allowed value.

    Raises:
        ValueError: The value is not in [least, most].
    """
    if not value >= least:
        raise ValueError(f"{option}: got {value}; it must be {least} or more")
    if value > most:
        raise ValueError(f"{option}: got {value}; it must be {most} or less")
