#!/usr/bin/env bash
# Runs a container from the embedded image on an engine of its own, shows what isolates and limits it, and leaves
# nothing running. Usage: run.sh DIRECTORY-OF-BINARIES
set -euo pipefail
bin=$(realpath "$1")
dir=$(mktemp -d)
export GANTRY_HOST=unix://$dir/run/gantry.sock

end() {
  kill "$engine" 2>/dev/null && wait "$engine" || true
  "$bin/gantryd" --root "$dir/root" --run "$dir/run" --teardown
  while pgrep -f "containerd-shim-gantry-v1.*$dir/run" >/dev/null; do sleep 0.1; done
  rm -rf "$dir"
}

mkdir -p "$dir/run"
mkfifo "$dir/ready"
GANTRYD_READY_FD=3 "$bin/gantryd" --root "$dir/root" --run "$dir/run" 3>"$dir/ready" 2>"$dir/log" &
engine=$!
trap end EXIT
[ "$(head -c 1 <"$dir/ready")" = 1 ] || { cat "$dir/log" >&2; exit 1; }

show='
echo "I am process $$ of $(hostname), user $(id -u), on a root of my own:"
ls /
echo; echo "my processes:"; ps
echo; echo "my network:"; ip addr | grep inet
echo; echo "my limits: memory $(cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max) bytes,\
 processes $(cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max)"
echo; echo "my namespaces:"; ls -l /proc/self/ns | grep -o "[a-z_]* -> .*"'

"$bin/gantry" run --rm -m 64m --pids-limit 50 --hostname first-light toolbox sh -c "$show"
echo
began=$(date +%s%N)
"$bin/gantry" run --rm toolbox true
ended=$(date +%s%N)
echo "gantry run --rm toolbox true: $(((ended - began) / 10000))" | sed 's/\([0-9][0-9]\)$/.\1 ms/'
