#!/usr/bin/env bash
# Makes .venv, installs jaxsim, runs the main job on real text, and says where
# the report is. Can be killed and rerun; finished work is kept.
#
#   launch/quickstart.sh [--dry-run] [arguments of jaxsim run]
#
# For example: launch/quickstart.sh --config.validate.held_out=4
# PYTHON=python3.12 launch/quickstart.sh chooses the Python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/dry_run.sh
. launch/environment.sh

workdir=runs/quickstart
for argument in "$@"; do
    case $argument in
        --workdir=*) workdir=${argument#*=} ;;
    esac
done
ensure_environment quickstart
set -- "$python" -m jaxsim run \
    --config=configs/quickstart.py --workdir="$workdir" "$@"
if [ -n "$dry_run" ]; then
    echo "would run: $*"
    echo "would leave the report in $workdir/report"
    exit
fi
"$@"
echo "$SECONDS seconds in all; the report is in $workdir/report:"
for file in "$workdir"/report/*.html; do
    echo "  $file"
done
