"""Optuna studies: search spaces, trials in parallel processes, and their runs in MLflow.

TrialQueue -> Driver -> TrialLauncher -> a process per trial: `fit`, as a child run of the study's run
              Driver <- messages: reports (answered by pruning), values, or the reason of a failure
              Driver -> TrialResults -> the study in Optuna's storage
              View shows the study in the terminal, StudyRun in MLflow
"""
