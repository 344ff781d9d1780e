"""The module that the forkserver of trials imports: it does work once that each fit would otherwise repeat.

The work is done at import, because multiprocessing's server can only import modules.
"""

import atexit
import gc
import os
import signal
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

_MODULES = (
    "alembic.command", "attrs", "git", "matplotlib.backends.backend_agg", "mlflow.pytorch",
    "mlflow.store.tracking.sqlalchemy_workspace_store", "project.engine.search.worker", "scipy.special", "scipy.stats",
    "sqlalchemy.dialects.sqlite", "torch.export",
)  # fmt: skip


def _preload() -> None:
    for name in _MODULES:
        import_module(name)
    import sqlalchemy.orm
    import torch
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from matplotlib.figure import Figure

    from project.engine.cli.command_line import CommandLine
    from project.engine.runtime.process import configure_process
    from project.engine.tracking.provenance import packages
    from project.engine.training.callbacks import build_fit
    from project.engine.training.serving import save_model

    configure_process()
    sqlalchemy.orm.configure_mappers()
    packages()
    # A forked process has the CUDA context and the threads of OpenMP in name only.
    torch.set_num_threads(1)
    # jsonargparse caches what it finds in signatures.
    with suppress(ValueError, OSError, MisconfigurationException):  # Changed defaults may not fit the CPU or lack data.
        build_fit(CommandLine.parse(["--trainer.logger=false", "--trainer.accelerator=cpu"]))
    with TemporaryDirectory() as folder:  # torch and MLflow import more when a model is saved, matplotlib its fonts
        save_model(Path(folder) / "model", torch.nn.Flatten(), torch.zeros(2, 1, 1, 1), {})
        figure = Figure()
        figure.subplots().set(title="one", xlabel="two")
        figure.savefig(Path(folder) / "figure.png")


signal.signal(signal.SIGINT, signal.SIG_DFL)  # Until the sweep begins, Ctrl-C ends the server without a traceback.
_preload()
for _signum in (signal.SIGINT, signal.SIGHUP):  # From here on, signals of the terminal are for the sweep.
    signal.signal(_signum, signal.SIG_IGN)
# The server has nothing to clean up. C++ libraries would report frozen objects as leaked.
atexit.register(os._exit, 0)
gc.freeze()  # A trial then neither scans nor copies the objects that exist now.
