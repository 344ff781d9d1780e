"""The signals that stop a command, and the exit codes that follow; this module imports no library."""

import signal

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Ctrl-C, SIGTERM, SLURM's SIGUSR1, and the SIGHUP of a lost terminal."""


def exit_code(signum: int) -> int:
    """Return 130 for Ctrl-C, and 143 for the other signals."""
    return 128 + (signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM)


INTERRUPTED = {exit_code(signum) for signum in STOP_SIGNALS}
"""Exit codes of an interrupted command."""


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that stop this process, without SIGHUP under nohup, which ignores it."""
    return tuple(
        signum for signum in STOP_SIGNALS if signum.name != "SIGHUP" or signal.getsignal(signum) != signal.SIG_IGN
    )
