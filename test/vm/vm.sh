#!/usr/bin/env bash
# Runs a command, or the tests of the runtime, in a virtual machine under software emulation: pure cgroup v2 with every
# controller, on Debian's cloud kernel. Ends with the exit code of what ran inside.
#
#   vm.sh [COMMAND]            busybox and the test binaries in an initial RAM file system
#   vm.sh --systemd [COMMAND]  Debian with a systemd that manages the machine, runc, crun and criu
#   vm.sh --peers [COMMAND]    the same, and docker, containerd and podman; their tests instead of the runtime's: checkpoints, systemd's cgroups
#   vm.sh --engine [COMMAND]   Debian, without systemd running, with what the end-to-end tests of the engine need, and those tests
#
# GANTRY_VM_FILES is a directory that the machine with Debian has as /gantry/files. GANTRY_VM_MEMORY (MiB) and GANTRY_VM_TIMEOUT (seconds) bound the machine; GANTRY_VM_V1=1 mounts cgroup v1 instead
# of v2, GANTRY_VM_V1=hybrid in the machine with Debian v1 and a v2 tree without controllers. Kernel and Debian are kept in the user's cache directory.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=test/vm
cache=${XDG_CACHE_HOME:-$HOME/.cache}/gantry-vm
packages=(./cgroup ./spawn ./oci ./oci/inroot ./oci/overlay ./cmd/gantry-runtime)
modules=(overlay veth bridge dummy loop null_blk bfq zram lzo lzo_rle cls_cgroup br_netfilter nf_tables virtio_pci virtio_blk
  unix_diag inet_diag tcp_diag udp_diag raw_diag af_packet_diag netlink_diag tun fuse
  nf_conntrack_netlink nft_compat nft_chain_nat nft_counter nft_ct nft_masq nft_nat nft_redir nft_fib_inet nft_fib_ipv4 nft_fib_ipv6 nft_reject_inet nft_hash nft_numgen xt_mark xt_conntrack xt_addrtype xt_comment xt_multiport xt_MASQUERADE xt_nat ip_tables ip6_tables)
mode=small peers= engine=
case ${1:-} in
--systemd) mode=systemd ;;
--peers) mode=systemd peers=yes ;;
--engine) mode=systemd engine=yes ;;
esac
if [ $mode = systemd ]; then shift; fi

need() { # installs Debian packages that are missing
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

fetch_kernel() { # into $cache/kernel; sets release
  if ! [ -d "$cache/kernel" ]; then
    local package scratch
    package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ {print $2; exit}')
    [ -n "$package" ] || { echo "no linux-image-cloud-amd64 in the package lists: run apt-get update" >&2; exit 1; }
    scratch=$(mktemp -d "$cache/kernel.XXXXXX")
    (cd "$scratch" && apt-get -qq download "$package" && dpkg -x ./*.deb . && rm ./*.deb)
    release=$(ls "$scratch/lib/modules")
    depmod -b "$scratch" "$release"
    mv "$scratch" "$cache/kernel"
  fi
  release=$(ls "$cache/kernel/lib/modules")
}

copy_modules() { # DIRECTORY
  local name file
  mkdir -p "$1/lib/modules/$release"
  for name in "${modules[@]}"; do
    modprobe -d "$cache/kernel" -S "$release" --show-depends "$name" 2>/dev/null || true
  done | awk '$1 == "insmod" {print $2}' | sort -u | while read -r file; do
    file=${file#"$cache/kernel/"}
    mkdir -p "$1/${file%/*}"
    cp "$cache/kernel/$file" "$1/$file"
  done
  cp "$cache/kernel/lib/modules/$release/modules."{order,builtin,builtin.modinfo} "$1/lib/modules/$release/"
  depmod -b "$1" "$release"
}

build_tests() { # DIRECTORY: the test binaries in their source directories, and what their tests would build
  local package
  if [ -n "$engine" ]; then
    mkdir -p "$1/bin"
    install -m 0755 $here/{engine,start} "$1/bin/"
    return
  fi
  for package in "${packages[@]}"; do
    mkdir -p "$1/src/$package"
    go test -c -trimpath -ldflags '-s -w' -o "$1/src/$package/run.test" "$package"
    if [ -d "$package/testdata" ]; then cp -r "$package/testdata" "$1/src/$package/"; fi
  done
  cp -r docs "$1/src/" # a test compares a page with a plan
  mkdir -p "$1/bin" "$1/prebuilt"
  go build -trimpath -ldflags '-s -w -E gantry/internal/early.entry' -o "$1/prebuilt/" ./cmd/gantry-runtime
  go build -trimpath -ldflags '-s -w' -o "$1/prebuilt/" ./cmd/containerd-shim-gantry-v1 ./cmd/toolbox ./oci/testdata/probe ./cmd/gantry-runtime/testdata/subject
  ln -sf /gantry/prebuilt/gantry-runtime "$1/bin/gantry-runtime"
  install -m 0755 $here/{go,tests,start} "$1/bin/"
  if [ -n "$peers" ]; then
    mkdir -p "$1/src/test/runtime"
    (cd test && go test -c -trimpath -ldflags '-s -w' -o "$1/src/test/runtime/peers.test" ./runtime)
    install -m 0755 $here/peers "$1/bin/"
  fi
}

small_image() { # $work/initrd
  local root=$work/root
  mkdir -p "$root"/{bin,sbin,proc,sys,dev,tmp,run,etc,mnt,root,usr/bin,gantry,var/tmp}
  install -m 0755 "$(command -v busybox)" "$root/bin/busybox"
  install -m 0755 $here/init "$root/init"
  chmod 0700 "$root/root"
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
  copy_programs "$root"
  copy_modules "$root"
  build_tests "$root/gantry"
  printf '%s\n' "$command" >"$root/gantry/command"
  (cd "$root" && find . | cpio --quiet -o -H newc) >"$work/initrd"
}

copy_programs() { # DIRECTORY: what tests copy into containers cannot be busybox, which goes by its name; its ps and ip know less
  local program file
  for program in sh true false sleep readlink cat head tail ps ip mke2fs; do
    program=$(type -P $program)
    cp -L "$program" "$1/bin/"
    ldd "$program" | grep -o '/[^ ]*' | while read -r file; do
      mkdir -p "$1/${file%/*}"
      cp -Ln "$file" "$1$file"
    done
  done
  mkdir -p "$1/gantry/bin"
  ln -s /bin/ip "$1/gantry/bin/" # before busybox's, in /sbin
}

engine_disk() { # $work/engine.ext4: the engine's programs, its tests, and room for their files
  local root=$work/engine
  test/prepare.sh >"$work/build.log" 2>&1 || { tail -20 "$work/build.log" >&2; exit 1; }
  mkdir -p "$root"/{bin,tmp,src/test/e2e,src/internal/api/docker}
  cp bin/gantry* bin/containerd-shim-gantry-v1 bin/test/{docker,debian.tar} "$root/bin/"
  cp internal/api/docker/routes.go "$root/src/internal/api/docker/" # a test asks for every route in it
  (cd test && go test -c -trimpath -ldflags '-s -w' -o "$root/src/test/e2e/e2e.test" ./e2e)
  mke2fs -q -t ext4 -d "$root" -E root_owner=0:0 -m 0 "$work/engine.ext4" 8G
}

# Not a microvm: without a second clock its kernel cannot always calibrate the first, and then hangs.
boot() { # KERNEL OPTIONS, QEMU OPTIONS…
  local options=$1
  shift
  timeout --foreground -k 5 "${GANTRY_VM_TIMEOUT:-$patience}" qemu-system-x86_64 -M q35,accel=tcg -cpu max -m "${GANTRY_VM_MEMORY:-$memory}" -smp 2 \
    -no-reboot -nodefaults -display none -serial stdio -kernel "$cache"/kernel/boot/vmlinuz-* -initrd "$work/initrd" \
    -append "console=ttyS0 ${GANTRY_VM_LOG:-quiet} panic=-1 reboot=t $options" "$@" </dev/null | tee "$work/console"
}

[ "$(uname -m)" = x86_64 ] || { echo "the virtual machine is an x86-64 one" >&2; exit 1; }
export CGO_ENABLED=0
need qemu-system-x86 cpio kmod busybox-static procps iproute2 e2fsprogs
mkdir -p "$cache"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
command=${*:-${peers:+peers}${engine:+engine}}
command=${command:-tests}
fetch_kernel
options=${GANTRY_VM_V1:+gantry.v1}
patience=1800 memory=1536
if [ -n "$engine" ]; then patience=14400 memory=3072; fi
case $mode in
small)
  small_image
  boot "apparmor=0 $options"
  ;;
systemd)
  . $here/debian.sh
  debian_image
  # systemd mounts the hierarchies, and reads this from the kernel's command line.
  if [ -n "${GANTRY_VM_V1:-}" ]; then options+=" systemd.unified_cgroup_hierarchy=0"; fi
  if [ "${GANTRY_VM_V1:-}" = 1 ]; then options+=" systemd.legacy_systemd_cgroup_controller=1"; fi
  drives=(-drive "if=none,id=root,format=raw,snapshot=on,file=$debian_disk" -device "virtio-blk-pci,drive=root")
  if [ -n "$engine" ]; then
    engine_disk
    drives+=(-drive "if=none,id=engine,format=raw,cache=unsafe,file=$work/engine.ext4" -device "virtio-blk-pci,drive=engine")
  fi
  boot "root=/dev/vda ro systemd.show_status=0 ${peers:+apparmor=0} $options" "${drives[@]}"
  ;;
esac
status=$(tr -d '\r' <"$work/console" | sed -n 's/^gantry-vm: exit status //p' | tail -1)
[ -n "$status" ] || { echo "the virtual machine ended without a result" >&2; exit 1; }
exit "$status"
