# shellcheck shell=bash
# Sourced by the launch scripts: takes --dry-run out of their arguments, wherever
# it stands ($dry_run is empty without it).
#
#   act COMMAND ...    runs it; with --dry-run it only says so

dry_run=
others=()
for argument in "$@"; do
    if [ "$argument" = --dry-run ]; then
        # shellcheck disable=SC2034  # environment.sh reads it
        dry_run=1
    else
        others+=("$argument")
    fi
done
set -- ${others[@]+"${others[@]}"}

act() {
    if [ -n "$dry_run" ]; then
        echo "would run: $*"
    else
        "$@"
    fi
}
