#!/usr/bin/env bash
#SBATCH --job-name=jaxsim-pool
#SBATCH --output=jaxsim-pool-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
#
# A job array over one pool: each task trains its share of what is missing, on
# one node. Run `prepare` and `base` before it (docs/launching.md).
#
#   sbatch --array=0-7 launch/slurm_array.sh --config=FILE.py --workdir=DIR
#   launch/slurm_array.sh --dry-run --config=FILE.py --workdir=DIR
#
# With the word `prepare` before the flags, each task prepares its share of the text.
#
# Submit it from the checkout. Checkout and DIR lie on a shared file system.
# Partition, time and GPUs are options of sbatch, before the script's name.
set -euo pipefail
# Slurm runs a copy of this script in another folder.
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"
. launch/dry_run.sh
. launch/slurm_step.sh

command=train
if [ "${1:-}" = prepare ]; then
    command=prepare
    shift
fi
step --ntasks=1 ${cpus:+"$cpus"} \
    .venv/bin/python -m jaxsim "$command" --shard=slurm "$@"
if [ -n "$dry_run" ]; then
    echo "would requeue the task if that ends with 4 (stopped but resumable)"
fi
