#!/usr/bin/env bash
# Gantry beside Debian's docker.io, runc and crun: one machine, one run, the same root file system. Prints medians and
# ratios. Usage: bench.sh DIRECTORY-OF-BINARIES
set -euo pipefail
bin=$(realpath "$1")
runs=${RUNS:-20}
. "$(dirname "$0")/leaks.sh"

need=()
for package in docker.io containerd runc crun jq procps time gcc libc6-dev; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || need+=("$package")
done
if ((${#need[@]})); then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

before=$(state)
dir=$(mktemp -d)
gantry="$bin/gantry -H unix://$dir/state/gantry/gantry.sock"
docker="/usr/bin/docker -H unix://$dir/docker/docker.sock"
hugetlb=
end() {
  $gantry ps -aq 2>/dev/null | xargs -r $gantry rm -f >/dev/null || true
  $docker ps -aq 2>/dev/null | xargs -r $docker rm -f >/dev/null || true
  kill "${dockerd:-}" "${engine:-}" 2>/dev/null || true
  wait
  "$bin/gantryd" --root "$dir/gantry/root" --run "$dir/state/gantry" --teardown || true
  ip link delete dockerbench 2>/dev/null || true
  while pgrep -f "$dir" >/dev/null; do sleep 0.2; done
  [ -z "$hugetlb" ] || give_back_hugetlb || true
  left "$before" | sed -n 's/^cgroup //p' | sort -r | xargs -r rmdir || true # the parents that docker and the runtimes made
  umount "$dir"/state/docker/netns/* 2>/dev/null || true
  umount "$dir/state" || true
  rm -rf "$dir"
}
trap end EXIT

# A hierarchy stays for as long as groups in it are on their way out, also without a mount, and keeps its controller from
# v2: then it is mounted and unmounted once more.
give_back_hugetlb() {
  for _ in $(seq 20); do
    find "$hugetlb" -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null || true
    umount "$hugetlb"
    sleep 0.5 # it ends a moment later
    grep -q :hugetlb: /proc/self/cgroup || { rmdir "$hugetlb"; return; }
    mount -t cgroup -o hugetlb cgroup "$hugetlb"
  done
}

# crun wants every v1 controller mounted as v1.
if grep -q hugetlb /sys/fs/cgroup/unified/cgroup.controllers 2>/dev/null; then
  hugetlb=/sys/fs/cgroup/hugetlb
  mkdir -p "$hugetlb"
  mount -t cgroup -o hugetlb cgroup "$hugetlb" || { rmdir "$hugetlb"; hugetlb=; }
fi

mkdir -p "$dir"/state "$dir"/docker "$dir"/gantry "$dir"/bundle/rootfs
mount -t tmpfs state "$dir/state" # what belongs in /run, which is a tmpfs wherever systemd starts the machine
mkdir "$dir"/state/{gantry,docker,runtimes}
mkfifo "$dir/ready"
GANTRYD_READY_FD=3 "$bin/gantryd" --root "$dir/gantry/root" --run "$dir/state/gantry" 3>"$dir/ready" 2>"$dir/gantry/log" &
engine=$!
[ "$(head -c 1 <"$dir/ready")" = 1 ] || { cat "$dir/gantry/log" >&2; exit 1; }
ip link add dockerbench type bridge
ip addr add 10.213.0.1/16 dev dockerbench
dockerd --data-root "$dir/docker/data" --exec-root "$dir/state/docker" --pidfile "$dir/docker/pid" -H "unix://$dir/docker/docker.sock" \
  --bridge dockerbench >"$dir/docker/log" 2>&1 &
dockerd=$!
until $docker version >/dev/null 2>&1; do sleep 0.2; done

# The same image for both engines: the embedded one, as a tar of its files.
id=$($gantry create toolbox true)
lower=$(ls -d "$dir"/gantry/root/images/layers/*/fs | head -1)
tar -C "$lower" -c . | $docker import -c 'CMD ["sh"]' - toolbox >/dev/null
$gantry rm "$id" >/dev/null

# The same bundle for the runtimes: the host's true and sleep.
rootfs=$dir/bundle/rootfs
for program in /bin/true /bin/sleep; do
  { echo "$program"; ldd "$program" | grep -o '/[^ ]*'; } | while read -r file; do
    install -D "$file" "$rootfs/$file"
  done
done
(cd "$dir/bundle" && runc spec && jq '.process.terminal=false | .process.args=["/bin/true"]' config.json >c && mv c config.json)
cp -a "$dir/bundle" "$dir/sleeping"
(cd "$dir/sleeping" && jq '.process.args=["/bin/sleep","100000"] | .linux.cgroupsPath="bench-sleeping"' "$dir/bundle/config.json" >config.json)

(cd "$(dirname "$0")/.." && CGO_ENABLED=0 go build -o "$dir/bench" ./internal/bench)
gcc -O2 -o "$dir/floor" "$(dirname "$0")/floor.c"

compare() { "$dir/bench" compare -runs "$runs" "$@" 2>"$dir/complaints" || { cat "$dir/complaints" >&2; false; }; }
row() { # what, gantry, peer's name, peer, and perhaps both again when run in a row
  awk -v w="$1" -v a="$2" -v n="$3" -v b="$4" -v c="${5:-}" -v d="${6:-}" 'BEGIN {
    printf "%-42s %10.2f  %-7s %10.2f %7.1f x", w, a, n, b, b / a
    if (c) printf "   %8.2f %8.2f %6.1f x", c, d, d / c
    print "" }'
}
beside_docker() { # what, arguments of both clients
  local m
  m=($(compare "$gantry $2" "$docker $2"))
  row "$1" "${m[0]}" docker "${m[2]}" "${m[1]}" "${m[3]}"
}
ours="$bin/gantry-runtime --root $dir/state/runtimes/gantry" # state on the same kind of file system for all
runc="runc --root $dir/state/runtimes/runc"
crun="crun --root $dir/state/runtimes/crun"
beside_runtimes() { # what, a command with RUNTIME in it
  local m
  m=($(compare "${2//RUNTIME/$ours}" "${2//RUNTIME/$runc}" "${2//RUNTIME/$crun}"))
  row "$1" "${m[0]}" runc "${m[2]}" "${m[1]}" "${m[3]}"
  row "$1" "${m[0]}" crun "${m[4]}" "${m[1]}" "${m[5]}"
}

printf '%-42s %10s  %-7s %10s %9s   %8s %8s %8s\n' "" "gantry" "peer" "" "ratio" "in a row" "peer" "ratio"
beside_docker "run --rm true, bridge (ms)" "run --rm toolbox true"
beside_docker "run --rm true, no network (ms)" "run --rm --network none toolbox true"

$gantry run -d --name idle toolbox sleep 100000 >/dev/null
$docker run -d --name idle toolbox sleep 100000 >/dev/null
beside_docker "exec true (ms)" "exec idle true"

many() { # containers a second, 60 started 8 at a time
  local began ended
  began=$(date +%s%N)
  seq 60 | xargs -P 8 -I{} $1 run -d --name many{} toolbox sleep 100000 >/dev/null
  ended=$(date +%s%N)
  awk -v n=$((ended - began)) 'BEGIN { print 60 / (n / 1e9) }'
}
resident() { # KiB of the processes whose command line matches
  pgrep -f "$1" | while read -r p; do awk '/^Rss/ {print $2}' /proc/"$p"/smaps_rollup 2>/dev/null; done | awk '{s += $1} END {print s + 0}'
}
outside_gantry() { resident "bin/gantryd --root $dir|containerd-shim-gantry-v1.*$dir"; }
outside_docker() { resident "dockerd --data-root $dir|containerd.*$dir/state/docker|containerd-shim-runc"; }

g0=$(outside_gantry) d0=$(outside_docker)
sleep 3 # for what was left to the kernel
g=$(many "$gantry")
sleep 3
d=$(many "$docker")
awk -v g="$g" -v d="$d" 'BEGIN { printf "%-42s %10.2f  %-7s %10.2f %7.1f x\n", "60 containers, 8 at a time (a second)", g, "docker", d, g / d }'
g1=$(outside_gantry) d1=$(outside_docker)
row "memory an idle container adds outside (KiB)" "$(((g1 - g0) / 60 + 1))" docker "$(((d1 - d0) / 60))"
$gantry ps -aq | xargs $gantry rm -f >/dev/null
$docker ps -aq | xargs $docker rm -f >/dev/null
sleep 2
row "engine and supervisor, idle (KiB)" "$(outside_gantry)" docker "$(outside_docker)"

beside_runtimes "runtime: run true (ms)" "RUNTIME run --bundle $dir/bundle bench"
beside_runtimes "runtime: create, start, delete true (ms)" \
  "RUNTIME create --bundle $dir/bundle bench ; RUNTIME start bench ; RUNTIME delete --force bench"
for r in "$ours" "$runc" "$crun"; do $r run --detach --bundle "$dir/sleeping" sleeping </dev/null >/dev/null 2>&1; done
beside_runtimes "runtime: exec true (ms)" "RUNTIME exec sleeping /bin/true"
for r in "$ours" "$runc" "$crun"; do $r delete --force sleeping; done

peak() { # KiB of the largest process of a command
  command time -f %M -o "$dir/peak" "$@" 2>/dev/null
  tail -1 "$dir/peak"
}
g=$(peak $ours run --bundle "$dir/bundle" bench)
row "runtime: peak memory of run (KiB)" "$g" runc "$(peak $runc run --bundle "$dir/bundle" bench)"
row "runtime: peak memory of run (KiB)" "$g" crun "$(peak $crun run --bundle "$dir/bundle" bench)"

waiting=0
for n in 1 100 1000; do # a created container waits for its start
  while ((waiting < n)); do
    $ours create --bundle "$dir/bundle" "waiting$((++waiting))" </dev/null >/dev/null 2>&1
  done
  beside_runtimes "runtime: run true beside $n (ms)" "RUNTIME run --bundle $dir/bundle bench"
done
for i in $(seq $waiting); do $ours delete --force "waiting$i"; done
sleep 5

group=/sys/fs/cgroup/memory/bench-floor
[ -d /sys/fs/cgroup/memory ] || group=/sys/fs/cgroup/bench-floor
library() { # ms a container of a program that makes them one after the other
  mkdir -p "$dir/work" $group
  "$@" "$rootfs" "$dir/work" $group 200
  rm -rf "$dir/work"
  find $group -depth -type d -exec rmdir {} +
}
c=$(library "$dir/floor")
row "library: a process with a root of its own (ms)" "$(library "$dir/bench" spawn)" "bare C" "$c"
printf '%-42s %10.2f\n' "library: create, start, delete true (ms)" "$("$dir/bench" oci "$dir/bundle" "$dir/state/runtimes/oci" 200 2>/dev/null)"
