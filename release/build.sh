#!/usr/bin/env bash
# Makes what is published, in dist/: for each platform an archive with the static binary, its manual, completions and the
# licences, and an SBOM; with IMAGE, the manifests and the charts with its name; and SHA256SUMS. The same commit with the same Go makes the same bytes, wherever and whenever.
# VERSION, COMMIT, IMAGE and SOURCE come from the Makefile; BINARY_CACHE, if set, is the build cache for the binaries.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C TZ=UTC
umask 022
epoch=$(git log -1 --format=%ct)
rm -rf dist
mkdir -p dist
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

archive() { # FOLDER FILE: the folder of $work as dist/FILE
  tar -C "$work" --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --format=ustar -cf - "$1" | gzip -9n >"dist/$2"
}

mkdir "$work/manual"
go test ./internal/cli -count=1 -run '^TestTheManualAndTheCompletions$' -manual "$work/manual" >/dev/null

for arch in amd64 arm64; do
  name=prestop-$VERSION-linux-$arch
  into=$work/$name
  mkdir "$into"
  GOCACHE=${BINARY_CACHE:-$(go env GOCACHE)} GOOS=linux GOARCH=$arch make -s build OUT="$into/prestop" VERSION="$VERSION" COMMIT="$COMMIT"
  cp LICENSE README.md README.zh-CN.md CHANGELOG.md "$work"/manual/* "$into/"
  go run ./release licenses "$into/prestop" >"$into/THIRD-PARTY-LICENSES"
  go run ./release sbom "$into/prestop" "$VERSION" "$COMMIT" >"dist/$name.cdx.json"
  chmod -R u=rwX,go=rX "$into"
  archive "$name" "$name.tar.gz"
done

if [ -n "${IMAGE:-}" ]; then
  go run ./release manifests "$IMAGE" "$VERSION" "${SOURCE:-}" "$work/prestop-$VERSION-manifests"
  chmod -R u=rwX,go=rX "$work/prestop-$VERSION-manifests"
  # A chart's archive is one with the chart's folder in it; Helm itself would put the time into it.
  for chart in chart-lib chart; do
    name=$(awk '$1 == "name:" { print $2; exit }' "$work/prestop-$VERSION-manifests/$chart/Chart.yaml")
    cp -r "$work/prestop-$VERSION-manifests/$chart" "$work/$name"
    archive "$name" "$name-$(awk '$1 == "version:" { print $2; exit }' "$work/$name/Chart.yaml").tgz"
  done
  archive "prestop-$VERSION-manifests" "prestop-$VERSION-manifests.tar.gz"
fi
(cd dist && sha256sum -- prestop-* >SHA256SUMS)
cat dist/SHA256SUMS
