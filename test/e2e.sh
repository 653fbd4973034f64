#!/usr/bin/env bash
# Runs the tests on Kubernetes: on the cluster that KUBECONFIG names, or on one on this machine, which is left running; and
# the one under Docker's engine: that of this machine that DOCKER_HOST names, or one that the test starts and ends. With -fresh
# first, the cluster is one on this machine, of the version KUBE_VERSION, that is started for this and ended.
# The other arguments are go test's.
set -euo pipefail
cd "$(dirname "$0")"
. ./need.sh

run=exec
if [ "${1:-}" = -fresh ]; then
  shift
  unset KUBECONFIG
  export KUBE_UP=${KUBE_UP:-$(cd ../.. && pwd)/shared/kube/kube-up.sh}
  if "$KUBE_UP" k get --raw /readyz --request-timeout=5s >/dev/null 2>&1; then
    echo "a cluster runs already: $KUBE_UP down ends it" >&2
    exit 1
  fi
  trap '"$KUBE_UP" down' EXIT
  run=
fi

if [ -z "${KUBECONFIG:-}" ]; then
  need containerd containerd
  need runc runc
  need iptables iptables
  need ip iproute2
  need openssl openssl
  need python3 python3
  need curl curl
  need nginx nginx # whose program an example's Pod mounts
  python3 -c 'import venv, ensurepip' 2>/dev/null || need "python3's venv" python3-venv # for the Envoy of another
fi
if [ -z "${DOCKER_HOST:-}" ]; then
  PATH=$PATH:/usr/sbin need dockerd docker.io
fi
need java openjdk-17-jdk-headless # for the rolling update
need mvn maven
# Most of a case is waiting, so more of them run at once than there are cores. The rolling update after them: it takes both cores.
PATH=$PATH:/usr/sbin $run go test -p 1 ./docker ./e2e ./rollout -count=1 -parallel 8 -timeout 20m "$@"
