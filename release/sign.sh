#!/usr/bin/env bash
# Signs what is published, or verifies that: SHA256SUMS in dist/, the image IMAGE:VERSION if IMAGE is given, the charts of dist/ in
# CHARTS if that is given (oci://…). With KEY by that key, and nothing is written to a public log; else by the identity of the
# workflow that runs (sign), or by IDENTITY and ISSUER (verify). COSIGN names cosign's binary; COSIGN_FLAGS are its flags for the
# registry, e.g. --allow-insecure-registry.
set -euo pipefail
cd "$(dirname "$0")/.."
cosign=${COSIGN:-$(go -C test run ./tools/build cosign)}
read -ra registry <<<"${COSIGN_FLAGS:-}"

refs=()
[ -z "${IMAGE:-}" ] || refs+=("$IMAGE:$VERSION")
if [ -n "${CHARTS:-}" ]; then
  for chart in dist/prestop-*.tgz; do
    read -r name version < <(tar -xOzf "$chart" --wildcards --no-wildcards-match-slash '*/Chart.yaml' | awk '$1 == "name:" && !n { n = $2 } $1 == "version:" && !v { v = $2 } END { print n, v }')
    refs+=("${CHARTS#oci://}/$name:$version")
  done
fi

if [ "${1:-sign}" = verify ]; then
  if [ -n "${KEY:-}" ]; then
    who=(--key "$KEY" --insecure-ignore-tlog)
  else
    who=(--certificate-identity "$IDENTITY" --certificate-oidc-issuer "$ISSUER")
  fi
  "$cosign" verify-blob "${who[@]}" --bundle dist/SHA256SUMS.sigstore.json dist/SHA256SUMS
  (cd dist && sha256sum --check --quiet SHA256SUMS)
  for ref in "${refs[@]}"; do
    "$cosign" verify "${who[@]}" "${registry[@]}" "$ref" >/dev/null
  done
  exit
fi

how=(--yes)
if [ -n "${KEY:-}" ]; then
  how+=(--key "$KEY" --use-signing-config=false --tlog-upload=false)
fi
"$cosign" sign-blob "${how[@]}" --bundle dist/SHA256SUMS.sigstore.json dist/SHA256SUMS
for ref in "${refs[@]}"; do
  # By digest: a tag may be another image a moment later.
  "$cosign" sign "${how[@]}" "${registry[@]}" "${ref%:*}@$("$cosign" triangulate --type digest "${registry[@]}" "$ref" | sed 's/.*@//')"
done
