"""One fit, from its checks to the end of its run.

open_job             the fit as a context: what it acquires is released when it ends
    |
CommandLine.parse    options and YAML files -> one object
build_fit            FitCLI (LightningCLI) -> data, model, trainer with the callbacks of every fit
check_training       data, first step, store: bad input ends here with exit code 2 and changes nothing
open_run             the MLflow run, whose status shows how the fit ended
    |                Supervisor    watches the processes of ddp and fsdp: if one ends, all end
    |                Interrupts    a signal ends all ranks after the same batch, with a checkpoint
    v
Trainer.fit          Lightning trains; --strategy ddp or fsdp starts the other ranks here, each by the same command
score, log_model     the best checkpoint: its test, and the model that MLflow serves
print_summary        scores, and the commands that come next

Several ranks: `runtime.rendezvous.FirstProcess` lets only the first one check, and gives the others its results.
"""
