#!/bin/bash
# Runs fuzz targets, one after the other: all of them for a minute each, or one for as long as said.
# Usage: tools/fuzz.sh [TARGET [SECONDS]]
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
command -v cargo-fuzz >/dev/null || { echo "run cargo install cargo-fuzz --locked" >&2; exit 1; }
seconds=${2:-60}
for fuzzed in ${1:-http_request replica_answer dns_packet config}; do
  mkdir -p "corpus/$fuzzed"
  seeds=("seeds/$fuzzed")
  [ "$fuzzed" != config ] || seeds=(../core/tests/config/good ../core/tests/config/bad)
  cargo +nightly fuzz run "$fuzzed" "corpus/$fuzzed" "${seeds[@]}" -- \
    -timeout=20 -max_len=4096 -len_control=0 -dict="dictionaries/$fuzzed" \
    -max_total_time="$seconds" -print_final_stats=1
done
