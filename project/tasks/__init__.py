"""What is learned: a task has its loss, metrics, reports and served model."""
