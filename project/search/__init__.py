"""Optuna studies: what is searched, and how a trial becomes a fit."""
