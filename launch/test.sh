#!/usr/bin/env bash
# Makes .venv, installs the test extra, runs the tests.
#
#   launch/test.sh [--dry-run] [--fast] [arguments of pytest]
#
# --fast leaves out what tests/slow.txt lists and ends with "N of M tests".
# PYTHON=python3.12 launch/test.sh chooses the Python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/dry_run.sh
. launch/environment.sh

ensure_environment test
# More workers would cost more memory than they save time.
jobs=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
[ "$jobs" -le 4 ] || jobs=4
# A file runs on one worker, so that its fixtures are made once.
set -- "$python" -m pytest -q -n "$jobs" --dist loadfile --no-loadscope-reorder "$@"
if [ -n "$dry_run" ]; then
    echo "would run: $*"
    exit
fi
exec "$@"
