#!/usr/bin/env bash
# Generates the stubs from proto/ and runs an example: ./run.sh [HOST:PORT] [produce|consume] [ARGS]
# ./run.sh --build generates only.
set -euo pipefail
cd "$(dirname "$0")"

if [ ! -d node_modules ] || [ package-lock.json -nt node_modules ]; then
    npm ci --silent --ignore-scripts
    touch node_modules
fi
if [ ! -d gen ] || [ -n "$(find ../../proto/thalweg/v1 node_modules package.json -maxdepth 1 -newer gen)" ]; then
    npm run --silent generate
    touch gen
fi
[ "${1:-}" != --build ] || exit 0

endpoint=127.0.0.1:9292
case ${1:-} in *:*) endpoint=$1 && shift ;; esac
program=${1:-produce}
shift || true
exec node "$program.js" --endpoint "$endpoint" "$@"
