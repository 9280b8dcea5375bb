#!/usr/bin/env bash
# Runs every test of the packages given, or of all, many times while something else loads both processors, and names those
# that failed at least once. Usage: RUNS=20 flakes.sh [PACKAGE…], a package as ./oci or ./test/e2e; RUN is a pattern of tests' names.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${RUNS:-20}
test/prepare.sh >/dev/null
dir=$(mktemp -d)
hogs=()
end() {
  kill "${hogs[@]}" 2>/dev/null || true
  wait
  rm -rf "$dir"
}
trap end EXIT
trap 'exit 1' INT TERM
# They end by themselves, too, if this shell is killed.
for _ in $(seq "$(nproc)"); do
  timeout "$((runs * 1800))" sh -c 'while [ -d "$1" ]; do i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done; done' hog "$dir" &
  hogs+=($!)
done

packages=("$@")
[ $# != 0 ] || packages=($(go list ./... | sed 's:^gantry$:.:; s:^gantry/:./:') ./test/isolate ./test/e2e ./test/runtime)
export GANTRY_BIN=$PWD/bin DOCKER=$PWD/bin/test/docker GANTRY_TEST_DEBIAN=$PWD/bin/test/debian.tar CGO_ENABLED=0
for package in "${packages[@]}"; do
  module=. isolate=$PWD/bin/test/isolate
  case $package in
  ./test/*) module=test package=./${package#./test/} ;;
  esac
  [ "$package" != ./runtime ] || isolate+=" -leftovers"
  (cd $module && go test -c -o "$dir/tests" "$package" 2>/dev/null) || { echo "$package does not build: go vet says why" >&2; exit 1; }
  [ -e "$dir/tests" ] || continue # no tests
  folder=$(cd $module && go list -f '{{.Dir}}' "$package")
  for i in $(seq "$runs"); do
    (cd "$folder" && $isolate "$dir/tests" -test.v -test.timeout 30m ${RUN:+-test.run "$RUN"} </dev/null) >"$dir/out" 2>&1 && continue
    # Of nested tests, the innermost say what failed.
    grep -oE '^ *--- FAIL: [^ ]+' "$dir/out" | sed "s:.*FAIL\: :$package :" | tee -a "$dir/failed" >"$dir/these" || true
    grep -oE '^(panic: |isolate: |left behind: ).*' "$dir/out" | sed "s:^:$package :" | tee -a "$dir/failed" >>"$dir/these" || true
    [ -s "$dir/these" ] || echo "$package ended without a result" | tee -a "$dir/failed" >"$dir/these"
    if [ -n "${LOGS:-}" ]; then mkdir -p "$LOGS" && cp "$dir/out" "$LOGS/$(echo "$package" | tr / _).$i"; fi
    echo "$package, run $i of $runs:" && sed 's/^[^ ]* /  /' "$dir/these"
  done
  rm -f "$dir/tests"
done
if [ -s "$dir/failed" ]; then
  echo "failed, of $runs runs:"
  sort "$dir/failed" | uniq -c | sort -rn
  exit 1
fi
echo "nothing failed in $runs runs"
