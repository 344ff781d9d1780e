"""A run in MLflow: its status, its metrics, its provenance and its artifacts."""
