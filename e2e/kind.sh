#!/usr/bin/env bash
# The end-to-end cases on kind: makes the cluster `antiphon` unless it is there, builds and loads the images, runs the cases.
# Needs docker, kind and Go (for the kubectl and the helm of tests/cluster). GPUs are numbers that the node is told to offer.
set -euo pipefail
cd "$(dirname "$0")/.."
name=antiphon
context=kind-$name
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
export KUBECONFIG=${KUBECONFIG:-$PWD/.cache/kind.kubeconfig}
mkdir -p .cache

kind get clusters | grep -qx "$name" || kind create cluster --name "$name" --wait 2m
kind export kubeconfig --name "$name"

images=()
for file in services/docker/*.Dockerfile; do
    image=antiphon-$(basename "$file" .Dockerfile):$version
    docker build --quiet --file "$file" --tag "$image" .
    images+=("$image")
done
stand_ins=antiphon-e2e-stand-ins:$version
docker build --quiet --build-arg "ORCHESTRATOR=antiphon-orchestrator:$version" --tag "$stand_ins" e2e/stand_ins
kind load docker-image --name "$name" "${images[@]}" "$stand_ins"

.venv/bin/python tests/cluster/cluster_binaries.py kubectl helm
node=$name-control-plane
.cache/cluster/bin/kubectl --context "$context" patch node "$node" --subresource=status --type=merge \
    --patch '{"status": {"capacity": {"nvidia.com/gpu": "8"}}}'

exec .venv/bin/python -m pytest e2e --context "$context" "$@"
