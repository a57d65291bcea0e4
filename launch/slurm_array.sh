#!/usr/bin/env bash
#SBATCH --job-name=jaxsim-pool
#SBATCH --output=jaxsim-pool-%A_%a.log
#SBATCH --requeue
#SBATCH --signal=TERM@120
#
# A job array over one pool: each task trains its share of what is missing, on
# one node. Corpus and seed have to be there already (docs/launching.md).
#
#   sbatch --array=0-7 launch/slurm_array.sh --config=FILE.py --workdir=DIR
#   launch/slurm_array.sh --dry-run --config=FILE.py --workdir=DIR
#
# Submit it from the checkout, which, like DIR, lies on a shared file system.
# Partition, time and GPUs are options of sbatch, before the script's name.
set -euo pipefail

dry_run=
if [ "${1:-}" = --dry-run ]; then
    dry_run=1
    shift
fi
# Not the folder of this script: Slurm runs a copy of it.
cd "${SLURM_SUBMIT_DIR:-.}"
set -- srun --kill-on-bad-exit=1 \
    .venv/bin/python -m jaxsim train --shard=slurm "$@"
if [ -n "$dry_run" ]; then
    echo "would run in each task: $*"
    echo "would requeue the task if that ends with 4 (stopped but resumable)"
    exit
fi
trap : TERM  # it is the step that stops; this script waits for it
code=0
"$@" || code=$?
if [ "$code" = 4 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
