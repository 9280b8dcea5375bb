#!/usr/bin/env bash
# Runs every test. Installs the Debian packages that tests need, as root, where they are missing.
set -euo pipefail
cd "$(dirname "$0")/.."
. test/leaks.sh

need=()
for package in runc gcc libc6-dev; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || need+=("$package")
done
if ((${#need[@]})); then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

before=$(state)
CGO_ENABLED=0 go test -count=1 -timeout 10m ./...
CGO_ENABLED=1 go test -count=1 -timeout 10m -race ./spawn/... ./internal/...
after=$(state)

if ! diff <(echo "$before") <(echo "$after"); then
  echo "the tests left something behind (lines with >)" >&2
  exit 1
fi
