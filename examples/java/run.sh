#!/usr/bin/env bash
# Generates the stubs from proto/, compiles and runs an example: ./run.sh [HOST:PORT] [produce|consume] [ARGS]
# ./run.sh --build generates and compiles only. Needs a JDK from 17 on and Maven.
set -euo pipefail
cd "$(dirname "$0")"

if [ ! -e target/built ] || [ -n "$(find ../../proto/thalweg/v1 src pom.xml -newer target/built)" ]; then
    MAVEN_OPTS="-Djansi.mode=strip ${MAVEN_OPTS:-}" mvn --batch-mode --quiet -Dstyle.color=never process-classes
    touch target/built
fi
[ "${1:-}" != --build ] || exit 0

endpoint=127.0.0.1:9292
case ${1:-} in *:*) endpoint=$1 && shift ;; esac
program=${1:-produce}
shift || true
exec java -cp 'target/classes:target/lib/*' "dev.thalweg.examples.${program^}" --endpoint "$endpoint" "$@"
