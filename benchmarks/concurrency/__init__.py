"""Benchmark of parallel processing beside asynchronous operation: the same training with each option of both."""
