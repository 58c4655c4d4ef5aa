#!/usr/bin/env bash
# Generates the stubs from proto/ and runs an example: ./run.sh [HOST:PORT] [publish_and_read|produce|consume|poll] [ARGS]
# ./run.sh --build generates only.
set -euo pipefail
cd "$(dirname "$0")"

if ! cmp -s requirements.txt .venv/installed; then
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
    cp requirements.txt .venv/installed
fi
# Only what is new: examples that run already read the stubs.
if [ ! -d gen ] || [ -n "$(find ../../proto/thalweg/v1 .venv/installed -newer gen)" ]; then
    rm -rf gen && mkdir gen
    .venv/bin/python -m grpc_tools.protoc -I ../../proto --python_out=gen --grpc_python_out=gen ../../proto/thalweg/v1/*.proto
    touch gen
fi
[ "${1:-}" != --build ] || exit 0

endpoint=127.0.0.1:9292
case ${1:-} in *:*) endpoint=$1 && shift ;; esac
program=${1:-publish_and_read}
shift || true
PYTHONPATH=gen exec .venv/bin/python "$program.py" "$endpoint" "$@"
