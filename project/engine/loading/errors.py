"""The error that is raised when batches can no longer be fetched."""


class LoadingError(RuntimeError):
    """Batches cannot be fetched; the message names the cause and the option that helps."""
