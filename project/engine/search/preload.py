"""Imported once, by the server that trials are forked from: what each fit would otherwise import or work out."""

import atexit
import gc
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import alembic.command
import attrs
import git
import matplotlib.backends.backend_agg
import mlflow.pytorch
import mlflow.store.tracking.sqlalchemy_workspace_store
import sklearn.datasets.data
import sqlalchemy.dialects.sqlite
import sqlalchemy.orm
import torch.export

import project.engine.search.worker
from project.engine.cli.fit_cli import FitCLI
from project.engine.cli.terminal import quiet
from project.engine.tracking.provenance import packages
from project.tasks.export import save_model
from project.tasks.figures import confusion_figure

__all__ = ["alembic", "attrs", "git", "matplotlib", "mlflow", "project", "sklearn", "torch"]

quiet()
sqlalchemy.orm.configure_mappers()
packages()
# A forked process has the CUDA context and the threads of OpenMP in name only.
torch.set_num_threads(1)
FitCLI(["--trainer.logger=false", "--trainer.accelerator=cpu"])  # jsonargparse remembers what it found in signatures
with TemporaryDirectory() as folder:  # torch and MLflow import more when a model is saved, matplotlib its fonts
    save_model(Path(folder) / "model", torch.nn.Flatten(), torch.zeros(2, 1, 1, 1, dtype=torch.uint8), ["one"])
    confusion_figure(torch.eye(1), ["one"]).savefig(Path(folder) / "figure.png")
# C++ libraries take what is frozen for leaked, and say so at the end; the server has nothing to put away.
atexit.register(os._exit, 0)
gc.freeze()  # what is here now no collection of a trial need look at, and so copy
