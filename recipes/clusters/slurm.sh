#!/bin/bash
# A run on machines of a SLURM cluster: sbatch recipes/clusters/slurm.sh mine.toml [options of dpotrain run]
#
# Ten minutes before the time limit, and when the job is preempted, SLURM signals the run, which saves a checkpoint and
# exits with code 75; the job is then requeued and goes on from there. So is one that has lost a process or a machine
# (code 76), but not more than five times in a row: what is killed for its memory as it begins would be for ever.
# Recipe, run folder, model and data must be on a file system that all machines share.
#SBATCH --job-name=dpotrain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=dpotrain-%j.log

set -u

recipe=${1:?give a recipe: sbatch recipes/clusters/slurm.sh mine.toml}
shift

# The machines meet on the first one, at a port that jobs on the same machine do not share.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))

srun --kill-on-bad-exit=0 dpotrain run "$recipe" --resume --plain \
    --processes all --machines "$SLURM_JOB_NUM_NODES" --rendezvous "$head:$port" "$@"
code=$?

# A byte for each end with code 76 since the last one with another code.
lost=dpotrain-$SLURM_JOB_ID.lost
if [ "$code" = 76 ]; then
    printf x >> "$lost"
else
    rm -f "$lost"
fi
case $code in
    75) scontrol requeue "$SLURM_JOB_ID" ;;
    76)
        if [ "$(wc -c < "$lost")" -le 5 ]; then
            scontrol requeue "$SLURM_JOB_ID"
        else
            rm -f "$lost"
        fi
        ;;
esac
exit "$code"
