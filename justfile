# Each recipe is plain commands that can be typed without just.

# Everything that must hold before a change lands, short of the release build and the strangers.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo test --workspace
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# The README's test command.
test:
    cargo test --workspace

# One fuzz target for a minute, or for as many seconds as said: `just fuzz frame 600`. Needs cargo-fuzz and g++.
fuzz target seconds="60":
    folder=$(dirname $(dirname */fuzz/bodies/{{target}}.rs)) && mkdir -p $folder/corpus/{{target}} && \
    CARGO_TARGET_DIR=target/fuzz RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir $folder {{target}} \
        $folder/corpus/{{target}} $folder/seeds/{{target}} -- -max_total_time={{seconds}}

# One bench: `just bench frames`.
bench name:
    cargo bench --bench {{name}}

# Beside nginx, haproxy, envoy and pingora in one run: `just peers`, `just peers --quick`, `just peers --help`.
peers *arguments:
    benches/peers/run {{arguments}}

# More seeds and longer runs of the simulation.
sim seeds="100000":
    FRAMEGATE_SIMULATION_SEEDS={{seeds}} cargo test --test simulation -- --nocapture

# Licences, banned crates, sources. Needs cargo-deny.
deny:
    cargo deny check bans licenses sources

# The Autobahn test suite in front of the gateway and behind it, every group. Needs CPython 2.7; skips aloud without it.
conformance:
    tests/conformance/conformance --all
    tests/conformance/conformance --all --tls

# What CI runs.
ci:
    .ci/run
