# shellcheck shell=bash
# Sourced by the launch scripts: takes --dry-run from the front of their
# arguments ($dry_run is empty without it).
#
#   act COMMAND ...    runs it; with --dry-run it only says so

dry_run=
if [ "${1:-}" = --dry-run ]; then
    # shellcheck disable=SC2034  # environment.sh reads it
    dry_run=1
    shift
fi

act() {
    if [ -n "$dry_run" ]; then
        echo "would run: $*"
    else
        "$@"
    fi
}
