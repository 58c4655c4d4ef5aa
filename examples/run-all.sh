#!/usr/bin/env bash
# One consumer of each language that is present, all in one group, on a topic of 6 partitions: ./run-all.sh HOST:PORT
# Each must get partitions, and together they must see every record once. A language that is not present is skipped.
set -euo pipefail
cd "$(dirname "$0")"
endpoint=${1:?"usage: run-all.sh HOST:PORT"}
records=3000 # of each language's producer, before and after the group is complete
topic=examples-$$-$RANDOM
group=$topic
patience=60 # seconds

out=$(mktemp -d)
declare -A consumer=()
stop_all() {
    for pid in "${consumer[@]}"; do kill "$pid" 2> /dev/null || true; done
    wait
    rm -rf "$out"
}
trap stop_all EXIT

fail() {
    echo "failed: $1"
    for log in "$out"/*.log; do sed "s/^/$(basename "$log" .log) says: /" "$log"; done
    exit 1
}

# Waits until the command succeeds.
wait_for() {
    local what=$1 deadline=$((SECONDS + patience))
    shift
    until "$@"; do
        [ $SECONDS -lt $deadline ] || fail "$what, even after $patience s"
        sleep 0.2
    done
}

# The partitions that a consumer has now, by what it said.
partitions_of() {
    awk '{ gsub(":", ""); for (i = 2; i <= NF; i++) if ($1 == "assigned") has[$i] = 1; else if ($1 == "revoked" || $1 == "lost") delete has[$i] }
         END { for (p in has) print p }' "$out/$1.log" | sed 's/.*-//' | sort -n | tr '\n' ' '
}
everyone_has_partitions() {
    local all=""
    for language in "${!consumer[@]}"; do
        kill -0 "${consumer[$language]}" 2> /dev/null || fail "the consumer in $language has ended"
        [ -n "$(partitions_of "$language")" ] || return 1
        all+=$(partitions_of "$language")
    done
    [ "$(echo "$all" | tr ' ' '\n' | grep -c .)" = 6 ]
}
seen() { cat "$out"/*.records | wc -l; }
saw_all() { [ "$(seen)" -ge "$1" ]; }

languages=()
declare -A needs=([python]="python3" [go]="go" [java]="javac mvn" [node]="node npm")
for language in python go java node; do
    missing=""
    for tool in ${needs[$language]}; do command -v "$tool" > /dev/null || missing+=" $tool"; done
    if [ -n "$missing" ]; then
        echo "$language: skipped, there is no$missing here"
    else
        languages+=("$language")
        "$language/run.sh" --build
    fi
done
[ ${#languages[@]} -gt 0 ] || { echo "no language is present"; exit 1; }

produce_all() {
    for language in "${languages[@]}"; do
        "$language/run.sh" "$endpoint" produce --topic "$topic" --partitions 6 --records $records --prefix "$1-$language" > /dev/null
    done
}
produce_all early
for language in "${languages[@]}"; do
    touch "$out/$language.records" "$out/$language.log"
    "$language/run.sh" "$endpoint" consume --topic "$topic" --group "$group" > "$out/$language.records" 2> "$out/$language.log" &
    consumer[$language]=$!
done
wait_for "not every consumer has partitions" everyone_has_partitions
for language in "${languages[@]}"; do
    echo "$language has the partitions $(partitions_of "$language")"
done
produce_all late

expected=$((records * ${#languages[@]} * 2))
wait_for "they have not seen $expected records" saw_all $expected
# A graceful end, as by Ctrl-C: each commits, leaves and exits with 0.
for language in "${languages[@]}"; do
    kill -TERM "${consumer[$language]}"
    wait "${consumer[$language]}" || fail "the consumer in $language ended badly"
    unset "consumer[$language]"
done

for language in "${languages[@]}"; do
    echo "$language saw $(wc -l < "$out/$language.records") records," \
        "$(grep -c $'\t'late- "$out/$language.records" || true) of them from when the group was complete"
    grep -q $'\t'late- "$out/$language.records" || fail "$language saw none of the late records"
done
cut -f 3 "$out"/*.records | sort > "$out/seen"
for language in "${languages[@]}"; do
    for phase in early late; do seq -f "$phase-$language-%.0f" 0 $((records - 1)); done
done | sort > "$out/sent"
diff "$out/sent" "$out/seen" > "$out/difference" || fail "not every record was seen once: $(head -5 "$out/difference")"
echo "each of $expected records was seen once"
