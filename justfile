# The developer's menu: `just` lists it.

_default:
    @just --list --unsorted

# Build everything, optimised
build:
    cargo build --release --workspace

# All tests as they are, without setting anything up
test *ARGS:
    cargo test --workspace {{ARGS}}

# All tests, with hugepages and on ordinary pages, with a count at the end
test-all:
    scripts/test

# What CI runs
ci:
    .ci/run

# The rules of the house: arrows, unsafe files, lengths, leftovers
tidy:
    cargo test -p culvert --test tidy

# Format and lint
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Licences, advisories and sources of the dependencies
deny:
    cargo deny check

# Every interleaving of the ring between threads
loom:
    RUSTFLAGS="--cfg loom" cargo test -p culvert-memory --lib --release spsc

# First contact: three nodes, a file in, a killed leader, the file out
quickstart *ARGS:
    cargo run --release -- quickstart {{ARGS}}

# Shared memory against TCP
bench *ARGS:
    cargo run --release -- bench {{ARGS}}

# Whole clusters in a modelled world
sim *ARGS:
    cargo run --release -- sim {{ARGS}}

# Bugs that the simulator must find
mutations *ARGS:
    scripts/mutations {{ARGS}}

# Any bytes for every parser
fuzz *ARGS:
    scripts/fuzz {{ARGS}}

# Undefined behaviour in memory/ and the pure cores
miri *ARGS:
    scripts/miri {{ARGS}}

# Micro-benchmarks
criterion *ARGS:
    cargo bench --workspace {{ARGS}}
