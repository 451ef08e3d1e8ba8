#!/bin/bash
# A service address beside a direct connection to the same replica: throughput by iperf3, and what
# a small question and its answer take, on a connection that is kept and on a new one for each.
#
# Needs root and Debian's iperf3. It runs in a network namespace of its own.
# Usage: tools/versus-address.sh [SECONDS] [ROUNDS]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-5} rounds=${2:-5}
target=${CARGO_TARGET_DIR:-target}
if [ -z "${IN_NAMESPACE:-}" ]; then
  for tool in iperf3 unshare ip cargo; do
    command -v $tool >/dev/null || { echo "$tool is missing; install it" >&2; exit 1; }
  done
  cargo build --quiet --locked --release --workspace --example address
  IN_NAMESPACE=1 exec unshare --net "$0" "$@"
fi
ip link set lo up
address=$target/release/examples/address
work=$(mktemp -d)
started=()
stop() {
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap stop EXIT INT TERM
mkfifo "$work/hold"
iperf3 --server --bind 127.0.0.1 --port 5201 >/dev/null 2>&1 & started+=($!)
"$address" echo 5202 <"$work/hold" & started+=($!)
"$address" carry 5201 5202 <"$work/hold" >"$work/at" & started+=($!)
exec 3>"$work/hold"
until [ -s "$work/at" ] && "$address" ask "$(cat "$work/at")" 5202 1 2>/dev/null; do sleep 0.1; done
service=$(cat "$work/at")

throughput() { # throughput HOST: Mbit/s
  iperf3 --client "$1" --port 5201 --time "$seconds" --json |
    awk '/"sum_received"/ { found = 1 } found && /bits_per_second/ { printf "%d\n", $2 / 1e6; exit }'
}
latency() { # latency HOW HOST COUNT: nanoseconds for each
  local before after
  before=$(date +%s%N)
  "$address" "$1" "$2" 5202 "$3"
  after=$(date +%s%N)
  echo $(((after - before) / $3))
}
median() { sort -g | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }
compare() { # compare WHAT UNIT COMMAND...: HOST stands for either
  local what=$1 unit=$2 round direct through
  shift 2
  : >"$work/direct"; : >"$work/through"; : >"$work/ratio"
  for ((round = 1; round <= rounds; round++)); do
    direct=$("${@//HOST/127.0.0.1}") through=$("${@//HOST/$service}")
    echo "$what, round $round: direct $direct $unit, by service address $through $unit"
    echo "$direct" >>"$work/direct"
    echo "$through" >>"$work/through"
    awk -v t="$through" -v d="$direct" 'BEGIN { print t / d }' >>"$work/ratio"
  done
  printf '%s: median direct %s, by service address %s %s, ratio %.2f\n' "$what" \
    "$(median <"$work/direct")" "$(median <"$work/through")" "$unit" "$(median <"$work/ratio")"
}
compare throughput Mbit/s throughput HOST
compare "on a kept connection" ns latency ask HOST 20000
compare "on a new connection" ns latency connect HOST 3000
