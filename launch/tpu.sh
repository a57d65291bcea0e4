#!/usr/bin/env bash
# One command on all workers of a TPU VM slice.
#
#   launch/tpu.sh [--dry-run] NAME ZONE install
#   launch/tpu.sh [--dry-run] NAME ZONE COMMAND --config=FILE.py --workdir=DIR
#   launch/tpu.sh [--dry-run] NAME ZONE stop
#
# `install` copies the last commit to every worker and installs it. COMMAND is
# prepare (on one worker), base or train. `stop` makes it commit and end, from
# another terminal. DIR is on a file system that all workers have mounted, such
# as a Filestore. The exit code is that of the first worker that failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/dry_run.sh
. launch/environment.sh

if [ $# -lt 3 ]; then
    echo "usage: $0 [--dry-run] NAME ZONE install|stop|COMMAND [flags]" >&2
    exit 2
fi
name=$1 zone=$2 command=$3
shift 3

on() {  # on WORKERS COMMAND: runs it there
    act gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker="$1" \
        --command="$2"
}

jaxsim() {  # jaxsim PLATFORMS FLAG ...: the command line for a worker's shell
    # shellcheck disable=SC2154  # of environment.sh
    printf 'cd jaxsim && exec env %s JAX_PLATFORMS=%s ' "$malloc" "$1"
    shift
    printf '.venv/bin/python -m jaxsim'
    printf ' %q' "$@"  # so that the shell there leaves them as they are
}

case $command in
    install)
        archive=$(mktemp -d)/jaxsim.tar.gz
        trap 'rm -rf "$(dirname "$archive")"' EXIT
        act git archive --format=tar.gz --output="$archive" HEAD
        act gcloud compute tpus tpu-vm scp "$archive" "$name:" \
            --zone="$zone" --worker=all
        on all "mkdir -p jaxsim && tar -xzf jaxsim.tar.gz -C jaxsim && \
cd jaxsim && bash -euc \
'. launch/dry_run.sh; . launch/environment.sh; ensure_environment tpu'"
        ;;
    stop)
        on all "pkill -TERM -f 'jaxsim (base|train)'"
        ;;
    prepare)
        # Without the TPU: JAX would wait for the other workers of the slice.
        on 0 "$(jaxsim cpu prepare "$@")"
        ;;
    *)
        # Where TPUs cannot be used (another process still holds them), JAX
        # would go on with the CPU and say nothing.
        on all "$(jaxsim tpu,cpu "$command" --distributed=auto "$@")"
        ;;
esac
