#!/usr/bin/env bash
# Builds the sdist and the wheel into dist/, and installs each by name in a new
# environment: the command answers, every module imports, no file is missing.
#
#   launch/package.sh [--dry-run]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/dry_run.sh
. launch/environment.sh

files() {
    (cd "$1" && find . -type f ! -name '*.pyc' | sort)
}

check() {
    local where
    "$folder/bin/jaxsim" --version
    # -P: what is installed, and not this checkout.
    where=$("$folder/bin/python" -P -c "
import importlib, pkgutil, jaxsim
for module in pkgutil.walk_packages(jaxsim.__path__, 'jaxsim.'):
    importlib.import_module(module.name)
print(jaxsim.__path__[0])")
    diff <(files jaxsim) <(files "$where")
}

ensure_environment package
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
act rm -rf dist build  # build/ may hold files that are gone
act "$python" -m build --outdir dist
act "$python" -m venv "$folder"
set -- "$folder/bin/python" -m pip install -q --disable-pip-version-check \
    --find-links=dist jaxsim-mixtures
act "$@" --only-binary=jaxsim-mixtures
act check
# pip would keep the wheel that it made of an earlier sdist at the same place.
act "$@" --no-binary=jaxsim-mixtures --force-reinstall --no-deps --no-cache-dir
act check
