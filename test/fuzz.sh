#!/usr/bin/env bash
# Runs every fuzz test for the time given, one after the other.
set -euo pipefail
cd "$(dirname "$0")/.."
go test -list '^Fuzz' ./... | awk '/^Fuzz/ {names = names " " $1} /^ok/ {split(names, n, " "); for (i in n) print $2, n[i]; names = ""}' |
  while read -r package name; do
    echo "== $package $name"
    go test "$package" -run '^$' -fuzz "^$name\$" -fuzztime "$1"
  done
