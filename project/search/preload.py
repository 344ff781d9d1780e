"""Imported once, by the server that trials are forked from: what each fit would otherwise import or work out."""

import matplotlib.backends.backend_agg
import mlflow.pytorch
import mlflow.store.tracking.sqlalchemy_store
import sklearn.datasets
import sqlalchemy.orm
import torch.export

import project.search.worker
from project.tracking.provenance import packages

__all__ = ["matplotlib", "mlflow", "project", "sklearn", "torch"]

sqlalchemy.orm.configure_mappers()
packages()
