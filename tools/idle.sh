#!/usr/bin/env bash
# Measures what the daemon needs while nothing happens: three healthy replicas, nobody asks.
#   tools/idle.sh [SECONDS]       samples for SECONDS (60); needs root and dockerd
# Prints resident memory in MiB and processor time in percent of one core. MILL names another
# binary than the release build.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
mill=$(realpath "${MILL:-${CARGO_TARGET_DIR:-target}/release/mill}")
dir=$(mktemp -d /tmp/mill-idle-XXXXXX)
daemon=

clean() {
  [ -z "$daemon" ] || { kill "$daemon" && wait "$daemon"; } 2>/dev/null || true
  tools/engine.sh stop "$dir/engine" || true
  rm -rf "$dir"
}
trap clean EXIT
trap 'exit 130' INT TERM

engine=$(tools/engine.sh start "$dir/engine")
tools/engine.sh images "$dir/engine"
cat >"$dir/mill.toml" <<'CONFIG'
[service.web]
image = "test/web:1"
port = 8080
replicas = 3
[service.web.health]
path = "/healthz"
[service.web.update]
parallel = 3
CONFIG

export MILL_ADDRESS=$dir/mill.sock
"$mill" init --foreground --name idle --data "$dir/data" --socket "$MILL_ADDRESS" \
  --engine "$engine" --ports 45000-45099 >"$dir/daemon.log" 2>&1 &
daemon=$!
failed() { echo "error: $1" >&2; tail -20 "$dir/daemon.log" "$dir/deploy.log" >&2 || true; exit 1; }

for _ in $(seq 200); do
  "$mill" status 2>/dev/null | grep -q ' up ' && break
  sleep 0.05
done
timeout 60 "$mill" deploy --yes -f "$dir/mill.toml" >"$dir/deploy.log" 2>&1 \
  || failed "the service did not become healthy"

ticks() { awk '{ print $14 + $15 }' "/proc/$daemon/stat"; }
resident() { awk '/^VmRSS:/ { print $2 }' "/proc/$daemon/status"; }
before=$(ticks) || failed "the daemon has ended"
sleep "$seconds" # what is measured is this very time
after=$(ticks) || failed "the daemon has ended"
LC_ALL=C awk -v kib="$(resident)" -v ticks=$((after - before)) -v hz="$(getconf CLK_TCK)" \
  -v seconds="$seconds" 'BEGIN {
    printf "idle daemon, 3 replicas, %d s: %.1f MiB resident, %.2f %% of one core\n",
      seconds, kib / 1024, 100 * ticks / hz / seconds }'
