#!/usr/bin/env bash
# Makes what is published, in dist/: for each platform an archive with the static binary, its manual, completions and the
# licences, and an SBOM; and SHA256SUMS. The same commit with the same Go makes the same bytes, wherever and whenever.
# VERSION and COMMIT come from the Makefile; BINARY_CACHE, if set, is the build cache for the binaries.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C TZ=UTC
umask 022
epoch=$(git log -1 --format=%ct)
rm -rf dist
mkdir -p dist
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir "$work/manual"
go test . -count=1 -run '^TestTheManualAndTheCompletions$' -manual "$work/manual" >/dev/null

for arch in amd64 arm64; do
  name=prestop-$VERSION-linux-$arch
  into=$work/$name
  mkdir "$into"
  GOCACHE=${BINARY_CACHE:-$(go env GOCACHE)} GOOS=linux GOARCH=$arch make -s build OUT="$into/prestop" VERSION="$VERSION" COMMIT="$COMMIT"
  cp LICENSE README.md README.zh-CN.md CHANGELOG.md "$work"/manual/* "$into/"
  go run ./release licenses "$into/prestop" >"$into/THIRD-PARTY-LICENSES"
  go run ./release sbom "$into/prestop" "$VERSION" "$COMMIT" >"dist/$name.cdx.json"
  chmod -R u=rwX,go=rX "$into"
  tar -C "$work" --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --format=ustar -cf - "$name" | gzip -9n >"dist/$name.tar.gz"
done
(cd dist && sha256sum -- prestop-* >SHA256SUMS)
cat dist/SHA256SUMS
