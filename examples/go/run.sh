#!/usr/bin/env bash
# Generates the stubs from proto/, compiles and runs an example: ./run.sh [HOST:PORT] [produce|consume] [ARGS]
# ./run.sh --build generates and compiles only. Nothing but Go is needed.
set -euo pipefail
cd "$(dirname "$0")"

if [ ! -d gen ] || [ -n "$(find ../../proto/thalweg/v1 tools go.sum -newer gen)" ]; then
    rm -rf gen
    go run ./tools/stubs ../../proto $(cd ../../proto && ls thalweg/v1/*.proto)
    touch gen
fi
go build -o bin/ ./produce ./consume
[ "${1:-}" != --build ] || exit 0

endpoint=127.0.0.1:9292
case ${1:-} in *:*) endpoint=$1 && shift ;; esac
program=${1:-produce}
shift || true
exec "bin/$program" --endpoint "$endpoint" "$@"
