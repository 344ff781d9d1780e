"""Trained runs at work: their evaluation, and predictions for files."""
