"""The machinery: it knows no task, no dataset and no model."""
