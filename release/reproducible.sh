#!/usr/bin/env bash
# Proves that a release can be made again: two clones of HEAD, in folders of different names, the second with its binaries
# built from an empty cache, another umask, time zone and language. Every byte must be the same.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
git clone -q . "$work/a"
git clone -q . "$work/a folder with another name"
image=${IMAGE:-registry.example.com/prestop}
make -C "$work/a" release VERSION="$VERSION" COMMIT="$COMMIT" IMAGE="$image" SOURCE="${SOURCE:-}"
(umask 077 && TZ=Asia/Shanghai LC_ALL=C.UTF-8 BINARY_CACHE="$work/cache" make -C "$work/a folder with another name" release VERSION="$VERSION" COMMIT="$COMMIT" IMAGE="$image" SOURCE="${SOURCE:-}" >/dev/null)
diff -r "$work/a/dist" "$work/a folder with another name/dist"
echo "built twice, the same bytes"
