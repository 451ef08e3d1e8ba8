#!/usr/bin/env bash
# Measures what daemons need in memory in a cluster of twenty nodes with fifty services: hosts with
# a network each, of which the first, which leads, has an engine and runs all that is deployed.
#   tools/twenty.sh [SECONDS]     samples after SECONDS of quiet (120); needs root and dockerd
# Prints resident memory in MiB of the first, of the middle one and of the largest. MILL names
# another binary than the release build, NET another network than 10.79.0.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-120}
mill=$(realpath "${MILL:-${CARGO_TARGET_DIR:-target}/release/mill}")
net=${NET:-79.0}
nodes=20
services=50
dir=$(mktemp -d /tmp/mill-twenty-XXXXXX)

clean() {
  # The shell need not tell that what it started was killed.
  { tools/hosts.sh down "$dir" && wait; } 2>/dev/null || true
  rm -rf "$dir"
}
trap clean EXIT
trap 'exit 130' INT TERM
failed() { echo "error: $1" >&2; tail -n 5 "$dir"/1/*.log "$dir/deploy.log" >&2 || true; exit 1; }

start() { # start HOST WHAT...
  local host=$1
  shift
  mkdir -p "$dir/$host"
  tools/hosts.sh exec "$dir" "$host" "$mill" "$@" --foreground --name "m$host" \
    --advertise "10.$net.$host" --data "$dir/$host/mill" --socket "$dir/$host/mill.sock" \
    >"$dir/$host/mill.log" 2>&1 </dev/null &
}
ask() { MILL_ADDRESS=$dir/1/mill.sock "$mill" "$@"; }
up() { ask node ls --json | grep -c '"up": *true'; }
until_up() {
  for _ in $(seq 600); do
    [ "$(up 2>/dev/null)" = "$1" ] && return
    sleep 0.2
  done
  failed "$1 nodes did not come up"
}
resident() { # resident HOST: KiB
  local pid
  pid=$(pgrep -f -- "--socket $dir/$1/mill.sock" | head -1)
  awk '/^VmRSS:/ { print $2 }' "/proc/$pid/status"
}

tools/hosts.sh net "$dir" "$net" "$nodes"
tools/hosts.sh engine "$dir" 1
tools/engine.sh images "$dir/1"
start 1 init
until_up 1
token=$(ask token create --json | sed -n 's/.*"token": *"\([^"]*\)".*/\1/p')
for host in $(seq 2 "$nodes"); do start "$host" join "10.$net.1" --token "$token"; done
until_up "$nodes"
ask node label m1 engine=yes >/dev/null

for service in $(seq "$services"); do
  printf '[service.s%d]\nimage = "test/web:1"\nport = 8080\ncpu = 0.02\nmemory = "16MiB"\nreplicas = %d\n' \
    "$service" $((1 + service % 2))
  printf '[service.s%d.health]\npath = "/healthz"\n' "$service"
  printf '[service.s%d.place]\nrequire = { engine = "yes" }\n' "$service"
done >"$dir/mill.toml"
MILL_ADDRESS=$dir/1/mill.sock timeout 300 "$mill" deploy --yes -f "$dir/mill.toml" \
  >"$dir/deploy.log" 2>&1 || failed "the services did not become healthy"
sleep "$seconds" # what is measured is the memory after this time

[ "$(up)" = "$nodes" ] || failed "not all nodes are up any more"
allocs=$(ask ps --json | grep -c '"slot"') || failed "nothing runs"
for host in $(seq "$nodes"); do echo "$(resident "$host") $host"; done | sort -n |
  LC_ALL=C awk -v allocs="$allocs" -v services="$services" '
    { kib[$2] = $1; all[NR] = $1; largest = $2 }
    END {
      printf "%d nodes, %d services, %d replicas: %.1f MiB the first, which " \
        "runs all, %.1f the middle one, %.1f the largest (m%d)\n", NR, services, allocs,
        kib[1] / 1024, all[int((NR + 1) / 2)] / 1024, kib[largest] / 1024, largest }'
