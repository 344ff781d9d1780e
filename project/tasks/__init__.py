"""Tasks: each one has a loss, metrics, reports and a served model."""
