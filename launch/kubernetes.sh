#!/usr/bin/env bash
# One command as a JobSet, with one process for each node.
#
#   IMAGE=... CLAIM=... ACCELERATOR=gpu NODES=2 \
#       launch/kubernetes.sh [--dry-run] COMMAND --config=... --workdir=/data/...
#
#   IMAGE        made with launch/Dockerfile, in a registry
#   CLAIM        a PersistentVolumeClaim (ReadWriteMany); it is /data
#   ACCELERATOR  gpu or tpu
#   NODES        how many; 1 for prepare and other commands of one process
#   PER_NODE     GPUs or TPU chips of a node: 8 and 4 unless you say otherwise
#   TPU_TYPE, TPU_TOPOLOGY    of GKE, as tpu-v5-lite-podslice and 4x4
#   NAME         of the JobSet, jaxsim-COMMAND unless you say otherwise
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/environment.sh

dry_run=
if [ "${1:-}" = --dry-run ]; then
    dry_run=1
    shift
fi
[ $# -ge 1 ] || die "COMMAND is missing, as in: $0 train --config=..."
for variable in IMAGE CLAIM ACCELERATOR NODES; do
    [ -n "${!variable:-}" ] || die "$variable is not set; see the top of $0"
done
NAME=${NAME:-jaxsim-$1}
PORT=12345
NODE_SELECTOR='{}'
group=()
case $ACCELERATOR in
    gpu)
        RESOURCE=nvidia.com/gpu PER_NODE=${PER_NODE:-8}
        # The first pod, as JobSet names it. $(PROCESS) is Kubernetes' syntax.
        group=(
            "--coordinator=$NAME-workers-0-0.$NAME:$PORT"
            "--processes=$NODES" '--process=$(PROCESS)'
        )
        ;;
    tpu)
        RESOURCE=google.com/tpu PER_NODE=${PER_NODE:-4}
        [ -n "${TPU_TYPE:-}" ] && [ -n "${TPU_TOPOLOGY:-}" ] ||
            die "TPU_TYPE and TPU_TOPOLOGY are not set; see the top of $0"
        NODE_SELECTOR="{cloud.google.com/gke-tpu-accelerator: $TPU_TYPE, \
cloud.google.com/gke-tpu-topology: $TPU_TOPOLOGY}"
        group=(--distributed=auto)
        ;;
    *) die "ACCELERATOR=$ACCELERATOR must be gpu or tpu" ;;
esac
[ "$NODES" -gt 1 ] || group=()
command=$1
shift
export NAME NODES NODE_SELECTOR IMAGE RESOURCE PER_NODE CLAIM
# On one line, and through JSON: what is in an argument stays in it.
manifest=$("$(find_python)" -c '
import json, os, string, sys
text = string.Template(open("launch/jobset.yaml").read().split("\n", 3)[3])
print(text.substitute(os.environ, ARGS=json.dumps(sys.argv[1:])))
' "$command" ${group[@]+"${group[@]}"} "$@")
if [ -n "$dry_run" ]; then
    echo "# would run: kubectl apply -f - with"
    printf '%s\n' "$manifest"
    exit
fi
kubectl apply -f - <<<"$manifest"
