# shellcheck shell=bash
# Sourced by the launch scripts: takes --dry-run out of their arguments, wherever
# it stands ($dry_run is empty without it). With --help it prints the comment at the
# top of the script, and ends it.
#
#   act COMMAND ...    runs it; with --dry-run it only says so

dry_run=
others=()
for argument in "$@"; do
    if [ "$argument" = --help ] || [ "$argument" = -h ]; then
        sed -n '/^#!/d; /^#SBATCH/d; /^[^#]/q; s/^# \{0,1\}//p' "launch/${BASH_SOURCE[1]##*/}"
        exit
    elif [ "$argument" = --dry-run ]; then
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
