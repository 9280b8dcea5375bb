#!/usr/bin/env bash
# Gantry beside Debian's docker.io, runc and crun: one machine, one run, the same root file system. Prints medians and
# ratios. Usage: bench.sh DIRECTORY-OF-BINARIES
set -euo pipefail
bin=$(realpath "$1")
runs=${RUNS:-20}
. "$(dirname "$0")/leaks.sh"

need=()
for package in docker.io containerd runc crun hyperfine jq procps; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || need+=("$package")
done
if ((${#need[@]})); then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

dir=$(mktemp -d)
gantry="$bin/gantry -H unix://$dir/gantry/run/gantry.sock"
docker="docker -H unix://$dir/docker/docker.sock"
hugetlb=
end() {
  $gantry ps -aq 2>/dev/null | xargs -r $gantry rm -f >/dev/null || true
  $docker ps -aq 2>/dev/null | xargs -r $docker rm -f >/dev/null || true
  kill "${dockerd:-}" "${engine:-}" 2>/dev/null || true
  wait
  "$bin/gantryd" --root "$dir/gantry/root" --run "$dir/gantry/run" --teardown || true
  ip link delete dockerbench 2>/dev/null || true
  [ -z "$hugetlb" ] || { umount "$hugetlb"; rmdir "$hugetlb"; }
  while pgrep -f "$dir" >/dev/null; do sleep 0.2; done
  umount "$dir"/docker/run/netns/* 2>/dev/null || true
  rm -rf "$dir"
}
trap end EXIT

# crun wants every v1 controller mounted as v1.
if grep -q hugetlb /sys/fs/cgroup/unified/cgroup.controllers 2>/dev/null; then
  hugetlb=/sys/fs/cgroup/hugetlb
  mkdir -p "$hugetlb"
  mount -t cgroup -o hugetlb cgroup "$hugetlb" || { rmdir "$hugetlb"; hugetlb=; }
fi

mkdir -p "$dir"/gantry/run "$dir"/docker "$dir"/bundle/rootfs
mkfifo "$dir/ready"
GANTRYD_READY_FD=3 "$bin/gantryd" --root "$dir/gantry/root" --run "$dir/gantry/run" 3>"$dir/ready" 2>"$dir/gantry/log" &
engine=$!
[ "$(head -c 1 <"$dir/ready")" = 1 ] || { cat "$dir/gantry/log" >&2; exit 1; }
ip link add dockerbench type bridge
ip addr add 10.213.0.1/16 dev dockerbench
dockerd --data-root "$dir/docker/data" --exec-root "$dir/docker/run" --pidfile "$dir/docker/pid" -H "unix://$dir/docker/docker.sock" \
  --bridge dockerbench >"$dir/docker/log" 2>&1 &
dockerd=$!
until $docker version >/dev/null 2>&1; do sleep 0.2; done

# The same image for all: the embedded one, as a tar of its files.
id=$($gantry create toolbox true)
upper=$($gantry inspect -f '{{.GraphDriver.Data.UpperDir}}' "$id")
lower=$(ls -d "$dir"/gantry/root/images/layers/*/fs | head -1)
cp -a "$lower/." "$dir/bundle/rootfs/"
$gantry rm "$id" >/dev/null
tar -C "$dir/bundle/rootfs" -c . | $docker import -c 'CMD ["sh"]' - toolbox >/dev/null
(cd "$dir/bundle" && runc spec && jq '.process.terminal=false | .process.args=["true"]' config.json >c && mv c config.json)

median() { # milliseconds of a command
  hyperfine -N --warmup 3 --runs "$runs" --export-json "$dir/result" "$1" >/dev/null 2>"$dir/errors" || { cat "$dir/errors" >&2; return 1; }
  jq -r '.results[0].median * 1000' "$dir/result"
}
row() { # what, gantry, peer's name, peer
  awk -v w="$1" -v a="$2" -v n="$3" -v b="$4" 'BEGIN { printf "%-44s %10.2f   %-12s %10.2f   %6.1f x\n", w, a, n, b, b / a }'
}
printf '%-44s %10s   %-12s %10s   %8s\n' "" gantry peer "" ratio

g=$(median "$gantry run --rm toolbox true")
row "run --rm true, bridge (ms)" "$g" docker "$(median "$docker run --rm toolbox true")"
g=$(median "$gantry run --rm --network none toolbox true")
row "run --rm true, no network (ms)" "$g" docker "$(median "$docker run --rm --network none toolbox true")"

$gantry run -d --name idle toolbox sleep 100000 >/dev/null
$docker run -d --name idle toolbox sleep 100000 >/dev/null
g=$(median "$gantry exec idle true")
row "exec true (ms)" "$g" docker "$(median "$docker exec idle true")"

g=$(median "$bin/gantry-runtime --root $dir/runtime run --bundle $dir/bundle bench")
row "runtime: run true (ms)" "$g" runc "$(median "runc --root $dir/runc run --bundle $dir/bundle bench")"
row "runtime: run true (ms)" "$g" crun "$(median "crun --root $dir/crun run --bundle $dir/bundle bench")"

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
outside_docker() { resident "dockerd --data-root $dir|containerd.*$dir/docker|containerd-shim-runc"; }

g0=$(outside_gantry) d0=$(outside_docker)
g=$(many "$gantry") d=$(many "$docker")
awk -v g="$g" -v d="$d" 'BEGIN { printf "%-44s %10.2f   %-12s %10.2f   %6.1f x\n", "60 containers, 8 at a time (a second)", g, "docker", d, g / d }'
g1=$(outside_gantry) d1=$(outside_docker)
row "memory an idle container adds outside (KiB)" "$(((g1 - g0) / 60 + 1))" docker "$(((d1 - d0) / 60))"
$gantry ps -aq | xargs $gantry rm -f >/dev/null
$docker ps -aq | xargs $docker rm -f >/dev/null
sleep 2
row "engine and supervisor, idle (KiB)" "$(outside_gantry)" docker "$(outside_docker)"
