"""The machinery of the project; it does not depend on a task, a dataset or a model."""
