#!/usr/bin/env bash
# One command on all workers of a TPU VM slice.
#
#   launch/tpu.sh [--dry-run] NAME ZONE install
#   launch/tpu.sh [--dry-run] NAME ZONE COMMAND --config=FILE.py --workdir=DIR
#
# `install` copies this checkout to every worker and installs it. COMMAND is
# prepare (on one worker), seed or train. DIR is on a file system that all
# workers have mounted, such as a Filestore.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dry_run=
if [ "${1:-}" = --dry-run ]; then
    dry_run=1
    shift
fi
if [ $# -lt 3 ]; then
    echo "usage: $0 [--dry-run] NAME ZONE install|COMMAND [flags]" >&2
    exit 2
fi
name=$1 zone=$2 command=$3
shift 3

act() {
    if [ -n "$dry_run" ]; then
        echo "would run: $*"
    else
        "$@"
    fi
}

on() {  # on WORKERS COMMAND: runs it there
    act gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker="$1" \
        --command="$2"
}

case $command in
    install)
        archive=$(mktemp -d)/jaxsim.tar.gz
        trap 'rm -rf "$(dirname "$archive")"' EXIT
        act git archive --format=tar.gz --output="$archive" HEAD
        act gcloud compute tpus tpu-vm scp "$archive" "$name:" \
            --zone="$zone" --worker=all
        on all "mkdir -p jaxsim && tar -xzf jaxsim.tar.gz -C jaxsim && \
cd jaxsim && python3 -m venv .venv && .venv/bin/pip install -q -e .[tpu]"
        ;;
    prepare)
        # No TPU is touched: the others of the slice would be waited for.
        on 0 "cd jaxsim && JAX_PLATFORMS=cpu .venv/bin/python -m jaxsim prepare ${*@Q}"
        ;;
    *)
        on all "cd jaxsim && .venv/bin/python -m jaxsim $command \
--distributed=auto ${*@Q}"
        ;;
esac
