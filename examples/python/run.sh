#!/usr/bin/env bash
# Generates the Python stubs from proto/ and runs the example: ./run.sh [HOST:PORT]
set -euo pipefail
cd "$(dirname "$0")"

if ! .venv/bin/python -c "import grpc_tools" 2> /dev/null; then
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
fi
rm -rf gen && mkdir gen
.venv/bin/python -m grpc_tools.protoc -I ../../proto --python_out=gen --grpc_python_out=gen ../../proto/thalweg/v1/*.proto
PYTHONPATH=gen exec .venv/bin/python publish_and_read.py "$@"
