# Optional: every line can be typed as it stands.

# A broker on port 7900
run *args:
    cargo run --release -- {{args}}

# Every test
test *args:
    ./test.sh {{args}}

# More histories in the simulator
sim seeds="5000":
    SIM_SEEDS={{seeds}} cargo test --release -p claudemesh-broker --test sim -- --nocapture

# Load on a running broker
load *args:
    cargo run --release -p loadtest -- {{args}}

# A cluster of release nodes, broken in fourteen ways under load; five minutes, and in the gate
chaos-short *args:
    cargo build --release --locked -p claudemesh-broker -p loadtest
    target/release/loadtest chaos --short --out target/chaos-short {{args}}

# Every fault alone and in pairs, with a short grace and with the real one; some forty minutes
chaos *args:
    cargo build --release --locked -p claudemesh-broker -p loadtest
    target/release/loadtest chaos --grace 20 --out target/chaos-20 {{args}}
    target/release/loadtest chaos --grace 90 --out target/chaos-90 {{args}}

# The files under deploy/ against README, linters and, without containers, reality
deploy-check:
    cargo build --release --locked -p claudemesh-broker -p loadtest
    deploy/check.sh target/release/claudemesh-broker target/release/loadtest

# The frame parser against arbitrary bytes; fuzz/README.md says what it needs
fuzz seconds="60":
    cd fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run frame -- -max_total_time={{seconds}}

# What the gate checks besides the tests
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo deny check

# README's table of settings
settings:
    cargo run -- print-readme-table

# The whole gate
ci:
    .ci/run
