# shellcheck shell=bash
# Sourced by the Slurm scripts, after dry_run.sh.
#
#   step COMMAND ...    runs it with srun. If it fails, the job ends with its exit
#                       code. If that is 4 (stopped but resumable) and nobody
#                       has cancelled the job, it is requeued

. launch/environment.sh

# SIGTERM is for the processes of a step: two minutes before the end of the job
# (--signal without B:) only they get it. When Slurm preempts or requeues a job
# this script gets it, too, and waits until they have saved their state.
trap : TERM

# For one task of an array, SLURM_JOB_ID may be the number of the whole array, and
# requeueing that would requeue running tasks.
if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
    job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
else
    job=${SLURM_JOB_ID:-}
fi

# For srun: since Slurm 22.05 it does not take this from sbatch.
# shellcheck disable=SC2034  # the scripts that source this read it
cpus=${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}

# A cancelled job must not come back, and Slurm itself requeues a preempted one.
# Neither of them is still running.
requeue() {
    local state
    state=$(squeue --noheader --format=%T --jobs="$job")
    if [ "$state" = RUNNING ]; then
        scontrol requeue "$job" && return
    fi
    echo "$0: job $job (${state:-state unknown}) is not requeued by this \
script. Slurm does it where it preempts; else submit it again, and it \
continues" >&2
}

step() {
    local code=0
    act srun "$@" || code=$?
    [ "$code" != 4 ] || requeue
    [ "$code" = 0 ] || exit "$code"
}
