#!/usr/bin/env bash
# Makes .venv, installs the docs extra, runs the tutorial and builds the pages
# into site/. A link that leads nowhere, or a cell that fails, is an error.
#
#   launch/docs.sh [--dry-run] [arguments of mkdocs build]
#
# `.venv/bin/python -m mkdocs serve` shows the pages while they are written.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/dry_run.sh
. launch/environment.sh

ensure_environment docs
export NO_MKDOCS_2_WARNING=1  # about other versions than the one that is used
act "$python" -m mkdocs build --strict "$@"
