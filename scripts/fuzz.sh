#!/usr/bin/env bash
# Runs fuzz targets under libFuzzer, one after the other.
#
#   scripts/fuzz.sh [target…]      all of fuzz/seeds when none is named; FUZZ_SECONDS (60) for each
#
# What it learns is kept in target/fuzz/corpus and used the next time. An input that fails is left in fuzz/artifacts and the
# script ends with an error; make a seed of it, smaller, with the fix.
set -euo pipefail
cd "$(dirname "$0")/.."

# What is fuzzed is what ships: the same versions of everything.
cp Cargo.lock fuzz/Cargo.lock

# The stable toolchain has all the instruments; this lets cargo-fuzz ask for them, in this build alone.
export RUSTC_BOOTSTRAP=1
failed=()
for target in ${*:-$(ls fuzz/seeds)}; do
    corpus=target/fuzz/corpus/$target
    mkdir -p "$corpus"
    echo "== $target, ${FUZZ_SECONDS:-60} s"
    cargo fuzz run --target-dir target/fuzz "$target" "$corpus" "fuzz/seeds/$target" -- \
        -max_total_time="${FUZZ_SECONDS:-60}" -max_len=4096 -timeout=10 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1 \
        || failed+=("$target")
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
