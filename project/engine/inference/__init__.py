"""Trained runs at work: their evaluation, predictions for files, and exports.

find_trained_run     RUN -> TrainedRun: its settings, its best checkpoint, and how its images were decoded
    |
EvaluationCLI        the settings of the run, changed by options -> data, model, trainer
    |
    |--> EvaluationJob    scores of a split, with intervals and the prediction for each sample -> the run
    |--> PredictionJob    a row for each file: class, probability, or its error
    '--> ExportJob        a file for other programs, compared with the model in PyTorch
"""
