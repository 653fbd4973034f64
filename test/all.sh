#!/usr/bin/env bash
# Runs every test of both modules anew, those with the real servers by go test's further ARGUMENTS. Fails if one fails, is skipped
# or finds something missing, or the tables of test/README.md are not what has just run. Installs by Debian's package manager
# what the real servers need, or says which package is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

. test/need.sh
need java openjdk-17-jdk-headless
need mvn maven
need ip iproute2
PATH=$PATH:/usr/sbin need iptables iptables # a mesh's redirections
need curl curl # the documentation's commands are run
need python3 python3 # Envoy comes from PyPI
PATH=$PATH:/usr/sbin need nginx nginx-light
need h2load nghttp2-client
python3 -c 'import venv, ensurepip' 2>/dev/null || need "python3's venv" python3-venv

log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
failed=0

of_failed() { # FILE: of what go test -v printed, the lines of the tests that failed, and those of no test
  awk '
    /^=== (RUN|CONT|NAME|PAUSE|ATTR) / { split($3, path, "/"); test = path[1]; next }
    /^(FAIL|ok|panic:)/ { test = ""; print }
    /^ *--- FAIL: / { split($3, path, "/"); test = path[1]; failed[test] = 1 }
    /^ *--- PASS: / { split($3, path, "/"); test = path[1]; next }
    test == "" { if (!/^(FAIL|ok|panic:|PASS)/) print; next }
    { if (++n[test] <= 300) lines[test] = lines[test] $0 "\n" }
    END { for (t in failed) printf "%s", lines[t] }
  ' "$1" | tail -n 1500
}

run() { # NAME FOLDER ARGUMENTS: go test there, showing the packages' results and whatever failed
  local name=$1 folder=$2
  shift 2
  echo "== $name"
  # -count=1: a test that builds the product by `go build` does not depend on it for go's cache, which would answer for it.
  (cd "$folder" && go test -v -count=1 "$@") >"$log/out" 2>&1 || failed=1
  cat "$log/out" >>"$log/all"
  grep -E '^(ok|FAIL|\?)\b' "$log/out" || true
  if grep -qE '^(FAIL|panic:)' "$log/out"; then
    of_failed "$log/out"
  fi
  if grep -E '^\s*--- SKIP' "$log/out"; then
    echo "skipped tests are failures here" >&2
    failed=1
  fi
  ran=$((${ran:-0} + $(grep -cE '^\s*--- PASS' "$log/out" || true)))
  bad=$((${bad:-0} + $(grep -cE '^\s*--- (FAIL|SKIP)' "$log/out" || true)))
}

run "the product" . -timeout 20m ./...
run "alerts and dashboard" test/monitoring -timeout 5m ./...
# By itself, since it needs both processors. The same histories at each run: make soak draws others.
run "random histories of a Pod" test -timeout 30m ./world -seed=1
# Those on Kubernetes and Docker, of Kyverno and of cosign have targets of their own: e2e, kyverno, trust.
run "real servers" test -timeout 60m "$@" $(cd test && go list ./... | grep -vE '/(e2e|rollout|docker|kyverno|trust|world)(/|$)')

# A column of test/README.md is rewritten where it is not what has just run; that is to be looked at and committed.
(cd test && go run ./traps -check README.md) <"$log/all" || { failed=1; (cd test && go run ./traps README.md) <"$log/all"; }

echo "$ran passed, $bad failed"
exit $failed
