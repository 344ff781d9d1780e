#!/bin/bash
# Search hyper-parameters with eight GPUs, which share the trials of one study:
#     sbatch examples/slurm/sweep.sh --search cnn --n_trials 200 --storage postgresql://USER@HOST/optuna
# Each task of the array is a sweep. A task that ends early, or is added later, changes nothing for the others.
#SBATCH --job-name=sweep
#SBATCH --array=1-8
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

source .venv/bin/activate
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" python -m project.sweep "$@"
code=$?
# Two minutes before the time limit, SLURM sends USR1. The trials save checkpoints, and the sweep exits with 143.
# The same job then waits for its next hours, in which this command continues the interrupted trials.
[ $code -ne 143 ] || scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
exit $code
