"""Benchmark of parallel processing and asynchronous operation: the same training with each option of both."""
