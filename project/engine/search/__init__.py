"""Optuna studies: what is searched, who runs the trials, and what of it is in MLflow.

space -> Driver  ask -> a trial's process: fit, with the trial's settings, as a child run of the study's run
                 tell <- values, reports (pruning), or the reason why it failed
         View    what the terminal shows           StudyRun    what MLflow shows
"""
