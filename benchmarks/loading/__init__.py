"""Benchmark of loading, compared with other libraries; see __main__.py."""
