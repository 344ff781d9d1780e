"""What ends training when batches no longer come."""


class LoadingError(RuntimeError):
    """Batches cannot be fetched; the message names the cause and the option that helps."""
