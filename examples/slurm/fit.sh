#!/bin/bash
# Train on all GPUs of several nodes, for as many hours as it takes:
#     sbatch examples/slurm/fit.sh --data image_folder --data.root DIR --max_epochs 90
# Set the numbers to those of your cluster; --ntasks-per-node is the number of GPUs of a node.
#SBATCH --job-name=fit
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

source .venv/bin/activate
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" python -m project.fit --strategy ddp "$@"
code=$?
# Two minutes before the time limit, SLURM sends USR1. All tasks save a checkpoint and exit with 143.
# The same job then waits for its next hours, in which this command continues its run.
[ $code -ne 143 ] || scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
exit $code
