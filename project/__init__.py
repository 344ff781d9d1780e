"""A PyTorch Lightning project: parallel, asynchronous, and tracked in MLflow."""
