"""A PyTorch Lightning project: parallel, asynchronous, and tracked in MLflow."""

import os

# Threads of OpenMP spin while they wait: two trainings on the same cores would then hardly move.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
