#!/usr/bin/env bash
#SBATCH --job-name=jaxsim
#SBATCH --output=jaxsim-%j.log
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --requeue
#SBATCH --signal=TERM@120
#
# One model over several nodes: prepares the corpus on one of them, then trains
# seed and members with one process for each GPU.
#
#   sbatch [options] launch/slurm.sh --config=FILE.py --workdir=DIR
#   launch/slurm.sh --dry-run --config=FILE.py --workdir=DIR
#
# Submit it from the checkout, which, like DIR, lies on a shared file system.
# Options of sbatch, before the script's name, win over those above. No
# --gpus-per-task: JAX gives each process of a node its GPU by itself.
set -euo pipefail

dry_run=
if [ "${1:-}" = --dry-run ]; then
    dry_run=1
    shift
fi
# Not the folder of this script: Slurm runs a copy of it.
cd "${SLURM_SUBMIT_DIR:-.}"

step() {
    if [ -n "$dry_run" ]; then
        echo "would run: $*"
        return
    fi
    local code=0
    "$@" || code=$?
    if [ "$code" = 4 ]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
    [ "$code" = 0 ] || exit "$code"
}

trap : TERM  # it is the step that stops; this script waits for it
step srun --nodes=1 --ntasks=1 .venv/bin/python -m jaxsim prepare "$@"
for command in seed train; do
    step srun --kill-on-bad-exit=0 .venv/bin/python -m jaxsim "$command" \
        --distributed=auto "$@"
done
if [ -n "$dry_run" ]; then
    echo "would requeue the job if one ends with 4 (stopped but resumable)"
fi
