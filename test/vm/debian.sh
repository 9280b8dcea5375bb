# Sourced by vm.sh: the machine with Debian and systemd.

# What a user of the runtime on a v2 machine has: a system and a user manager, the other runtimes, criu.
debian_packages=systemd-sysv,dbus,dbus-user-session,libpam-systemd,udev,criu,runc,crun,iproute2,iptables,procps,uidmap,kmod
debian_disk=$cache/debian.ext4 debian_size=1G
if [ -n "$peers" ]; then
  debian_packages+=,docker.io,containerd,podman,netavark,jq,gawk,ca-certificates
  debian_disk=$cache/debian-peers.ext4 debian_size=2G
fi

if [ -n "$engine" ]; then
  debian_disk=$cache/debian-engine.ext4 debian_size=2G
fi

debian_image() { # $debian_disk, which is made once, and $work/initrd with what changes
  need debootstrap e2fsprogs
  if ! [ -f "$debian_disk" ]; then
    local scratch
    scratch=$(mktemp -d "$cache/debian.XXXXXX")
    debootstrap --variant=minbase --include="$debian_packages" bookworm "$scratch" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$work/debootstrap.log" ||
      { tail -20 "$work/debootstrap.log" >&2; rm -rf "$scratch"; exit 1; }
    if [ -n "$engine" ]; then debian_install "$scratch" skopeo docker-registry; fi
    debian_settle "$scratch"
    mke2fs -q -t ext4 -d "$scratch" -E root_owner=0:0 "$work/debian.ext4" $debian_size
    rm -rf "$scratch"
    mv "$work/debian.ext4" "$debian_disk"
  fi
  local root=$work/root
  mkdir -p "$root"/{bin,gantry,proc,sys,dev,new}
  install -m 0755 "$(command -v busybox)" "$root/bin/busybox"
  install -m 0755 $here/init-debian "$root/init"
  copy_modules "$root"
  build_tests "$root/gantry"
  if [ -n "${GANTRY_VM_FILES:-}" ]; then cp -a "$GANTRY_VM_FILES" "$root/gantry/files"; fi
  printf '%s\n' "$command" >"$root/gantry/command"
  (cd "$root" && find . | cpio --quiet -o -H newc) >"$work/initrd"
}

debian_install() { # DIRECTORY PACKAGE…: those that debootstrap does not manage to configure
  local root=$1
  shift
  { chroot "$root" apt-get update -qq && chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@"; } >"$work/debootstrap.log" 2>&1 ||
    { tail -20 "$work/debootstrap.log" >&2; rm -rf "$root"; exit 1; }
}

debian_settle() { # DIRECTORY: the unit that runs the command; an ordinary user with subordinate ids
  rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*
  chroot "$1" useradd -m -u 1000 -s /bin/bash user
  echo user:100000:65536 | tee "$1/etc/subuid" >"$1/etc/subgid"
  mkdir -p "$1/gantry" "$1/lib/modules" "$1/var/lib/systemd/linger"
  touch "$1/var/lib/systemd/linger/user"
  echo gantry-vm >"$1/etc/hostname"
  cat >"$1/etc/systemd/system/gantry-vm.service" <<'UNIT'
[Unit]
Description=The command of the virtual machine
After=multi-user.target user@1000.service
Wants=user@1000.service
[Service]
Type=oneshot
Environment=HOME=/root TERM=dumb PATH=/gantry/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
StandardInput=null
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
Delegate=yes
TimeoutStartSec=infinity
ExecStart=/bin/sh -c '/bin/sh /gantry/command; echo "gantry-vm: exit status $?"; sync; reboot -ff'
UNIT
  ln -s ../gantry-vm.service "$1/etc/systemd/system/multi-user.target.wants/"
  for unit in getty@tty1 serial-getty@ttyS0 docker containerd apt-daily.timer apt-daily-upgrade.timer systemd-timesyncd systemd-hwdb-update; do
    case $unit in *.timer) ;; *) unit=$unit.service ;; esac
    ln -sf /dev/null "$1/etc/systemd/system/$unit"
  done
}
