# shellcheck shell=bash
# Sourced by the launch scripts: finds Python, makes .venv, installs jaxsim.
#
#   ensure_environment EXTRA    afterwards $python is .venv/bin/python
#
# Installing is skipped while a stamp inside .venv says that the same
# pyproject.toml, extra and Python were installed from the same folder. The
# stamp is written last, so an interrupted installation is repeated.

# XLA on a CPU allocates the buffers of a program at every call. glibc would map
# and unmap them, and page faults would take a third of a training step. With
# these variables freed memory stays in the process: no mmap for large blocks, no
# memory is given back, and there is one arena, because arenas of threads hold no
# large blocks. Only speed depends on them. launch/Dockerfile has the same.
malloc='MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647'
# shellcheck disable=SC2086  # three words
export ${malloc?}

die() {
    printf '%s: %s\n' "$0" "$1" >&2
    exit 2
}

recent() {  # is $1 a Python that works and is recent enough?
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

version() {
    "$1" -c 'import sys; print(*sys.version_info[:3], sep=".")'
}

find_python() {  # prints the Python to make .venv with
    local name
    if [ -n "${PYTHON:-}" ]; then
        recent "$PYTHON" || die "PYTHON=$PYTHON is no Python 3.11 or later"
        printf '%s\n' "$PYTHON"
        return
    fi
    for name in python3 python3.13 python3.12 python3.11 python3.14 python; do
        if recent "$name"; then
            printf '%s\n' "$name"
            return
        fi
    done
    die "Python 3.11 or later is needed and none was found; install one \
(Debian: apt install python3 python3-venv) or set PYTHON to its path"
}

make_venv() {
    local base
    base=$(find_python)
    if [ -n "$dry_run" ]; then
        echo "would run: $base -m venv .venv"
        return
    fi
    "$base" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$base cannot make virtual environments; on Debian or Ubuntu: \
apt install python3-venv"
    "$base" -m venv .venv || die "$base could not make .venv (see above)"
}

ensure_environment() {
    local extra=$1 stamp want
    python=.venv/bin/python
    stamp=.venv/jaxsim-$extra
    if recent "$python"; then
        if [ -n "${PYTHON:-}" ] &&
            [ "$(version "$PYTHON")" != "$(version "$python")" ]; then
            die ".venv has Python $(version "$python"), PYTHON=$PYTHON is \
another version; remove .venv and run this again"
        fi
        want=$({ cat pyproject.toml; pwd; version "$python"; } | cksum)
        if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
            return
        fi
    fi
    # Without pip, making .venv was interrupted; this completes it.
    "$python" -m pip --version >/dev/null 2>&1 || make_venv
    if [ -n "$dry_run" ]; then
        echo "would run: $python -m pip install -e .[$extra]"
        return
    fi
    rm -f "$stamp"
    echo "installing jaxsim-mixtures[$extra] in .venv ..."
    "$python" -m pip install -q --disable-pip-version-check -e ".[$extra]" ||
        die "installation failed (see above). Without a network, give pip a \
folder of wheels ($python -m pip config --site set global.find-links FOLDER) \
and run this again"
    { cat pyproject.toml; pwd; version "$python"; } | cksum >"$stamp.new"
    mv "$stamp.new" "$stamp"
}
