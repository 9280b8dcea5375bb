#!/usr/bin/env bash
# Installs and builds, as root, what tests need: Debian packages, modules, the binaries and, in bin/test, the stock docker
# client, the program that runs tests in namespaces, and a Debian image. All that comes from the network is fetched here.
set -euo pipefail
cd "$(dirname "$0")/.."

need=()
for package in runc gcc libc6-dev containerd containernetworking-plugins debootstrap skopeo docker-registry iptables iproute2 procps docker.io podman uidmap jq strace; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || need+=("$package")
done
if ((${#need[@]})); then
  apt-get update -qq </dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" </dev/null >/dev/null
fi

go mod download
make build
mkdir -p bin/test
cd test
# Its module file speaks of a Go version before generics' latest.
CGO_ENABLED=0 go build -trimpath -gcflags='github.com/docker/cli/...=-lang=go1.26' -o ../bin/test/docker github.com/docker/cli/cmd/docker
CGO_ENABLED=0 go build -trimpath -o ../bin/test/isolate ./isolate/cmd/isolate
cd ..

# Debian with a web server: what a user's image is like.
if ! [ -f bin/test/debian.tar ]; then
  tree=$(mktemp -d)
  trap 'rm -rf "$tree"' EXIT
  mirror=${DEBIAN_MIRROR:-$(grep -rhoE 'https?://[^ ]*/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | head -1 || true)}
  debootstrap --variant=minbase --include=nginx-light bookworm "$tree/root" "${mirror:-http://deb.debian.org/debian}" >"$tree/log" ||
    { tail -20 "$tree/log" >&2; exit 1; }
  tar -C "$tree/root" -cf bin/test/debian.tar.new .
  mv bin/test/debian.tar.new bin/test/debian.tar
fi
