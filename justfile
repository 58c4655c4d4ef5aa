# Thalweg's commands. `just` alone lists them.

default:
    @just --list

# The read-only gate, the same at home and in CI
check:
    cargo fmt --all -- --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
    buf lint
    cargo deny check bans licenses sources

# Mend what can be mended by a program
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# All tests
test:
    cargo test --workspace

# The real program against real logs: `just logs ~/logs/*.log`
logs +FILES:
    cargo build --release
    THALWEG_TEST_LOGS="{{FILES}}" THALWEG_TEST_BINARY=target/release/thalweg cargo test -p thalweg-tests --release -- real_logs

# Micro-benchmarks, then every case of docs/PERFORMANCE.md against a broker of its own
bench:
    cargo bench -p thalweg-core -p thalweg-log -- --quick
    cargo build --release
    scripts/bench

# The cases of a cluster, against three controllers and three brokers of their own
bench-cluster *ARGS:
    cargo build --release
    scripts/bench-cluster "" {{ARGS}}

# Simulate the cluster under faults for so many minutes, and tell the simulated hours, the faults and the anomalies
soak minutes="30" first_seed="1000":
    THALWEG_SIM_MINUTES={{minutes}} THALWEG_SIM_FIRST_SEED={{first_seed}} cargo test -p thalweg-tests --release --test simulation -- --exact no_seed_shows_an_anomaly --nocapture

# Run one seed of the simulation again and show what the services said: `just replay 14 debug`
replay seed show="info":
    THALWEG_SIM_SEED={{seed}} THALWEG_SIM_SHOW={{show}} cargo test -p thalweg-tests --test simulation -- --exact one_run --nocapture

# Kill the broker again and again under load, for as many rounds as told
kill-rounds rounds="20":
    cargo build --release
    THALWEG_KILL_ROUNDS={{rounds}} THALWEG_TEST_BINARY=target/release/thalweg cargo test -p thalweg-tests --release --test cluster -- kill_rounds --nocapture

# How long partitions are without a leader: brokers and controllers are killed and stopped, so many times each
failover rounds="20":
    cargo build --release
    THALWEG_FAILOVER_ROUNDS={{rounds}} THALWEG_TEST_BINARY=target/release/thalweg cargo test -p thalweg-tests --test cluster -- failover --nocapture

# Kill coordinators, brokers and members under a running consumer group, for as many rounds as told
group-rounds rounds="20":
    cargo build --release
    THALWEG_GROUP_KILL_ROUNDS={{rounds}} THALWEG_TEST_BINARY=target/release/thalweg cargo test -p thalweg-tests --test cluster -- groups::kills --nocapture

# How long a consumer group is without a coordinator that was killed, with so many committed offsets in its shard
takeover rounds="20" offsets="100000":
    cargo build --release
    THALWEG_GROUP_KILL_ROUNDS={{rounds}} THALWEG_GROUP_OFFSETS={{offsets}} THALWEG_TEST_BINARY=target/release/thalweg cargo test -p thalweg-tests --test cluster -- groups::takeover --nocapture

# Consumer groups, measured against a `dev` of their own
bench-groups *ARGS:
    cargo build --release
    scripts/bench-groups {{ARGS}}

# What a producer feels of the log cleaner
bench-cleaner *ARGS:
    cargo build --release
    scripts/bench-cleaner {{ARGS}}

# Many partitions on three brokers: how long they take, what they weigh, how fast their leaders move
many partitions="10000":
    cargo build --release
    THALWEG_MANY_PARTITIONS={{partitions}} THALWEG_TEST_BINARY=target/release/thalweg cargo test -p thalweg-tests --test cluster -- many:: --nocapture

# Feed random bytes to a parser (needs a nightly toolchain and cargo-fuzz)
fuzz target="batch_check" seconds="60":
    cargo +nightly fuzz run --fuzz-dir fuzz {{target}} -- -max_total_time={{seconds}}

# The Python example against a broker that is running
python:
    examples/python/run.sh

# Stop and start every process of a cluster under load, one after the other, for as many rounds as told
roll rounds="5":
    cargo build --release
    THALWEG_ROLL_ROUNDS={{rounds}} THALWEG_TEST_BINARY=target/release/thalweg cargo test -p thalweg-tests --test cluster -- rolling::a_cluster_is_rolled --nocapture

# Upgrade a cluster under load from an older program to this one: `just upgrade-from path/to/old/thalweg`
upgrade-from old:
    cargo build --release
    THALWEG_OLD_BINARY={{old}} THALWEG_TEST_BINARY=target/release/thalweg cargo test -p thalweg-tests --test cluster -- rolling::a_cluster_is_upgraded --nocapture
