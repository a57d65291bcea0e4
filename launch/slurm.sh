#!/usr/bin/env bash
#SBATCH --job-name=jaxsim
#SBATCH --output=jaxsim-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --requeue
#SBATCH --signal=TERM@120
#
# One model over several nodes: prepares the corpus on one of them, then trains
# the base model and members with one process for each GPU.
#
#   sbatch [options] launch/slurm.sh --config=FILE.py --workdir=DIR
#   launch/slurm.sh --dry-run --config=FILE.py --workdir=DIR
#
# Submit it from the checkout, which, like DIR, is on a shared file system. Options of
# sbatch, before the script's name, override those above. --gpus-per-task is not set:
# JAX assigns the GPUs of a node to its processes.
set -euo pipefail
# Slurm runs a copy of this script, from another folder.
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"
. launch/dry_run.sh
. launch/slurm_step.sh

# One process, with all of the job's resources on its node.
step --nodes=1 --ntasks=1 --cpu-bind=none \
    .venv/bin/python -m jaxsim prepare "$@"
for command in base train; do
    # A process that has stopped must not kill those that still save.
    step --kill-on-bad-exit=0 ${cpus:+"$cpus"} \
        .venv/bin/python -m jaxsim "$command" --distributed=auto "$@"
done
if [ -n "$dry_run" ]; then
    echo "would requeue the job if one ends with 4 (stopped but resumable)"
fi
