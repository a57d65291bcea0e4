#!/usr/bin/env bash
# One command as a JobSet, with one process for each node.
#
#   IMAGE=... CLAIM=... ACCELERATOR=gpu NODES=2 \
#       launch/kubernetes.sh [--dry-run] COMMAND --config=... --workdir=/data/...
#
#   IMAGE        made with launch/Dockerfile, in a registry
#   CLAIM        a PersistentVolumeClaim (ReadWriteMany); it is /data
#   ACCELERATOR  gpu or tpu; cpu for prepare
#   NODES        how many; 1 for prepare and other commands of one process
#   PER_NODE     GPUs, TPU chips or CPUs of a node; by default 8, 4 and 4
#   TPU_TYPE, TPU_TOPOLOGY    of GKE, as in tpu-v5-lite-podslice and 4x4; NODES
#                             must be all nodes of that slice
#   NAME         of the JobSet; by default jaxsim-COMMAND
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/dry_run.sh
. launch/environment.sh
[ $# -ge 1 ] || die "COMMAND is missing, as in: $0 train --config=..."
for variable in IMAGE CLAIM ACCELERATOR NODES; do
    [ -n "${!variable:-}" ] || die "$variable is not set; see the top of $0"
done
[[ $NODES =~ ^[1-9][0-9]*$ ]] || die "NODES=$NODES must be a number"
NAME=${NAME:-jaxsim-$1}
PORT=12345
NODE_SELECTOR='{}' ANNOTATIONS='{}'
# The first pod, as JobSet names it. $(PROCESS) is Kubernetes' syntax.
# shellcheck disable=SC2016
group=(
    "--coordinator=$NAME-workers-0-0.$NAME:$PORT"
    "--processes=$NODES" '--process=$(PROCESS)'
)
# With PLATFORMS a device that cannot be used is an error. Without it, and also with
# cuda,cpu (JAX 0.10-0.12), JAX would silently use the CPU.
case $ACCELERATOR in
    gpu) RESOURCE=nvidia.com/gpu PER_NODE=${PER_NODE:-8} PLATFORMS=cuda ;;
    cpu) RESOURCE=cpu PER_NODE=${PER_NODE:-4} PLATFORMS=cpu ;;
    tpu)
        RESOURCE=google.com/tpu PER_NODE=${PER_NODE:-4} PLATFORMS=tpu,cpu
        [ -n "${TPU_TYPE:-}" ] && [ -n "${TPU_TOPOLOGY:-}" ] ||
            die "TPU_TYPE and TPU_TOPOLOGY are not set; see the top of $0"
        NODE_SELECTOR="{cloud.google.com/gke-tpu-accelerator: $TPU_TYPE, \
cloud.google.com/gke-tpu-topology: $TPU_TOPOLOGY}"
        # All pods on one slice, where the cluster has several like it.
        ANNOTATIONS="{alpha.jobset.sigs.k8s.io/exclusive-topology: \
cloud.google.com/gke-nodepool}"
        group=(--distributed=auto)
        ;;
    *) die "ACCELERATOR=$ACCELERATOR must be gpu, tpu or cpu" ;;
esac
[ "$NODES" -gt 1 ] || group=()
command=$1
shift
export NAME NODES NODE_SELECTOR ANNOTATIONS IMAGE RESOURCE PER_NODE PLATFORMS \
    CLAIM
# As one line of JSON, so that arguments stay what they are.
manifest=$("$(find_python)" -c '
import json, os, string, sys
text = string.Template(open("launch/jobset.yaml").read().split("\n\n", 1)[1])
print(text.substitute(os.environ, ARGS=json.dumps(sys.argv[1:])))
' "$command" ${group[@]+"${group[@]}"} "$@")
if [ -n "$dry_run" ]; then
    echo "# would run: kubectl apply -f - with"
    printf '%s\n' "$manifest"
    exit
fi
kubectl apply -f - <<<"$manifest"
