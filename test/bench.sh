#!/usr/bin/env bash
# Gantry beside docker, runc and crun, the newest that are in PATH or Debian's: one machine, one run, the same root file
# system. Prints medians and ratios, and counts that a busy machine does not change. Usage: bench.sh DIRECTORY-OF-BINARIES
set -euo pipefail
bin=$(realpath "$1")
runs=${RUNS:-20}
. "$(dirname "$0")/leaks.sh"

need=()
for package in docker.io containerd runc crun jq procps time strace gcc libc6-dev; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || need+=("$package")
done
if ((${#need[@]})); then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

newest() { # PROGRAM: the path of the newest with this name in PATH
  local path version best="" of=0
  while read -r path; do
    version=$("$path" --version 2>/dev/null | grep -oE '[0-9]+\.[0-9]+[^ ,]*' | head -1 | sed 's/-rc/~rc/' || true)
    [ -n "$version" ] || continue
    if [ -z "$best" ] || { [ "$version" != "$of" ] && [ "$(printf '%s\n' "$of" "$version" | sort -V | tail -1)" = "$version" ]; }; then
      best=$path of=$version
    fi
  done < <(type -ap "$1")
  [ -n "$best" ] || { echo "no $1 in PATH tells its version" >&2; return 1; }
  echo "$best"
}
docker_program=$(newest docker) dockerd_program=$(newest dockerd) runc_program=$(newest runc) crun_program=$(newest crun)
for program in "$docker_program" "$dockerd_program" "$runc_program" "$crun_program"; do
  echo "$program: $("$program" --version | head -1)"
done

before=$(state)
dir=$(mktemp -d)
gantry="$bin/gantry -H unix://$dir/state/gantry/gantry.sock"
docker="$docker_program -H unix://$dir/docker/docker.sock"
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
PATH=$(dirname "$dockerd_program"):$PATH "$dockerd_program" --data-root "$dir/docker/data" --exec-root "$dir/state/docker" --pidfile "$dir/docker/pid" -H "unix://$dir/docker/docker.sock" \
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
# Not every runtime knows time namespaces, which newer ones have in their example.
(cd "$dir/bundle" && "$runc_program" spec && jq '.process.terminal=false | .process.args=["/bin/true"] | .linux.namespaces |= map(select(.type != "time"))' \
  config.json >c && mv c config.json)
for name in gantry runc crun; do # each in a cgroup of its own: one that has processes is refused
  cp -a "$dir/bundle" "$dir/sleeping-$name"
  jq --arg name "bench-$name" '.process.args=["/bin/sleep","100000"] | .linux.cgroupsPath=$name' "$dir/bundle/config.json" >"$dir/sleeping-$name/config.json"
done

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
runc="$runc_program --root $dir/state/runtimes/runc"
crun="$crun_program --root $dir/state/runtimes/crun"
count() { # what, gantry's command, then for each peer a name and its command
  local what=$1 ours=$2 m n
  shift 2
  while [ $# != 0 ]; do
    m=($("$dir/bench" counts "$ours" "$2" 2>"$dir/complaints" || cat "$dir/complaints" >&2))
    [ ${#m[@]} = 4 ] || return 1
    row "$what, page faults" "${m[0]}" "$1" "${m[2]}"
    [ "${m[1]}" = 0 ] || row "$what, system calls" "${m[1]}" "$1" "${m[3]}"
    shift 2
  done
}
count_runtimes() { count "$1" "${2//RUNTIME/$ours}" runc "${2//RUNTIME/$runc}" crun "${2//RUNTIME/$crun}"; }
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
count "client: --version" "$bin/gantry --version" docker "$docker_program --version"
count "client: run --rm true" "$gantry run --rm toolbox true" docker "$docker run --rm toolbox true"
count "client: exec true" "$gantry exec idle true" docker "$docker exec idle true"

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
outside_docker() { resident "PATH=$(dirname "$dockerd_program"):$PATH "$dockerd_program" --data-root $dir|containerd.*$dir/state/docker|containerd-shim-runc"; }

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
for r in gantry runc crun; do
  case $r in gantry) command=$ours ;; runc) command=$runc ;; crun) command=$crun ;; esac
  $command run --detach --bundle "$dir/sleeping-$r" sleeping </dev/null >/dev/null 2>&1
done
beside_runtimes "runtime: exec true (ms)" "RUNTIME exec sleeping /bin/true"
count_runtimes "runtime: run true" "RUNTIME run --bundle $dir/bundle bench"
count_runtimes "runtime: create, start, delete true" "RUNTIME create --bundle $dir/bundle bench ; RUNTIME start bench ; RUNTIME delete --force bench"
count_runtimes "runtime: exec true" "RUNTIME exec sleeping /bin/true"
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
