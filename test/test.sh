#!/usr/bin/env bash
# Runs every test: unit and integration tests beside the code, the same with the race detector, and the built binaries
# end to end. Installs the Debian packages that tests need, as root, where they are missing.
set -euo pipefail
cd "$(dirname "$0")/.."
. test/leaks.sh

need=()
for package in runc gcc libc6-dev containerd containernetworking-plugins debootstrap skopeo docker-registry iptables procps docker.io podman uidmap; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || need+=("$package")
done
if ((${#need[@]})); then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

make build
# The stock docker client, pinned in test/go.mod. (Its module file speaks of a Go version before generics' latest.)
mkdir -p bin/test
(cd test && CGO_ENABLED=0 go build -trimpath -gcflags='github.com/docker/cli/...=-lang=go1.26' -o ../bin/test/docker github.com/docker/cli/cmd/docker)

before=$(state)
CGO_ENABLED=0 go test -count=1 -timeout 10m ./...
CGO_ENABLED=1 go test -count=1 -timeout 10m -race ./spawn/... ./internal/engine/... ./internal/shim/... ./internal/logs/... ./internal/image/... ./internal/api/...
(cd test && GANTRY_BIN=$PWD/../bin DOCKER=$PWD/../bin/test/docker go test -count=1 -timeout 10m ./e2e)
(cd test && go test -count=1 -timeout 5m ./runtime)

# A supervisor without containers ends by itself a moment after its engine.
for _ in $(seq 50); do
  left=$(left "$before")
  [ "$left" ] || exit 0
  sleep 0.2
done
echo "the tests left behind:" >&2
echo "$left" >&2
exit 1
