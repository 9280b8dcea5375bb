#!/usr/bin/env bash
# Runs every test, as root: unit and integration tests beside the code, the same with the race detector, and the built
# binaries end to end. Each package's tests are in namespaces of their own (test/isolate), and fail if anything is left there.
#
# Every package has half an hour: a host five times slower than a common one needs that.
set -euo pipefail
cd "$(dirname "$0")/.."
test/prepare.sh
isolate=$PWD/bin/test/isolate
export GANTRY_BIN=$PWD/bin DOCKER=$PWD/bin/test/docker GANTRY_TEST_DEBIAN=$PWD/bin/test/debian.tar
go_test() { go test -count=1 -timeout 30m -exec "$isolate" "$@" </dev/null; }

failed=
CGO_ENABLED=0 go_test ./... || failed=1
CGO_ENABLED=1 go_test -race ./spawn/... ./internal/engine/... ./internal/shim/... ./internal/logs/... ./internal/image/... ./internal/api/... || failed=1
cd test
export CGO_ENABLED=0
go_test ./isolate || failed=1
go_test ./e2e || failed=1
# Other engines run in these, and leave things behind: their tests make namespaces that nobody looks into afterwards.
isolate+=" -leftovers"
go_test ./runtime || failed=1
go test -count=1 -timeout 30m ./differential </dev/null || failed=1 # in namespaces that it makes itself
[ -z "$failed" ]
