"""Everything about a run in MLflow: its life, its metrics, where it came from, what it made."""
