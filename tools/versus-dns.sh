#!/bin/bash
# Mill's name server beside dnsmasq: the same 50 services, a core each, the same load from dnsperf.
#
# Needs Debian's dnsmasq-base and dnsperf, and two cores: the server has one, the load the other.
# Everything listens on loopback and is stopped at the end. Besides the rate it prints the CPU time
# of one answer, which does not depend on how much load one core can make.
# Usage: tools/versus-dns.sh [SECONDS] [ROUNDS]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-5} rounds=${2:-5}
for tool in dnsmasq dnsperf taskset cargo; do
  command -v $tool >/dev/null || { echo "$tool is missing; install it" >&2; exit 1; }
done
target=${CARGO_TARGET_DIR:-target}
names=${NAMES:-$target/release/examples/names}
[ -n "${NAMES:-}" ] || cargo build --quiet --locked --release --workspace --example names
work=$(mktemp -d)
started=()
stop() {
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap stop EXIT INT TERM

{
  printf '%s\n' no-resolv no-hosts no-poll bind-interfaces listen-address=127.0.0.1 port=15301 \
    local-ttl=1 local=/mill/ dns-forward-max=1 cache-size=1000
  for node in 1 2 3; do echo "host-record=node-$node.node.mill,192.0.2.$node"; done
  for number in $(seq 0 49); do
    echo "host-record=service-$number.mill,10.213.128.$((number + 1))"
    for slot in 0 1 2; do
      echo "srv-host=_service-$number._tcp.mill,node-$((slot + 1)).node.mill,$((20000 + slot))"
    done
  done
} >"$work/dnsmasq.conf"
# Mostly addresses, as programs ask for them, in the order of a deck of cards.
for number in $(seq 0 49); do
  for _ in 1 2 3 4 5 6 7; do echo "service-$number.mill A"; done
  echo "service-$number.mill AAAA"
  echo "_service-$number._tcp.mill SRV"
  echo "nobody-$number.mill A"
done | shuf --random-source=<(yes) >"$work/questions"

mkfifo "$work/hold"
taskset -c 1 dnsmasq --keep-in-foreground --conf-file="$work/dnsmasq.conf" --user=root \
  --pid-file= --log-facility="$work/log" &
dnsmasq=$! started+=($!)
taskset -c 1 "$names" 127.0.0.1:15302 <"$work/hold" &
mill=$! started+=($!)
exec 3>"$work/hold"

ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }
load() { # load PORT PID: answers per second, and nanoseconds of CPU for each
  local before after
  before=$(ticks "$2")
  taskset -c 0 dnsperf -s 127.0.0.1 -p "$1" -d "$work/questions" -l "$seconds" -c 16 -T 1 \
    -q 100 -t 1 >"$work/out" 2>&1
  after=$(ticks "$2")
  awk -v ticks=$((after - before)) -v hertz="$(getconf CLK_TCK)" '
    /Queries completed/ { done = $3 }
    /Queries lost/ && $3 > done / 1000 { print "too many were lost: " $0 > "/dev/stderr"; exit 1 }
    /Response codes/ { if ($0 !~ /NOERROR.*NXDOMAIN/) { print $0 > "/dev/stderr"; exit 1 } }
    /Queries per second/ { printf "%d %d\n", $4, ticks / hertz / done * 1e9 }' "$work/out"
}
median() { sort -n | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }

for ((round = 0; round <= rounds; round++)); do
  read -r theirs their_cost < <(load 15301 $dnsmasq)
  read -r ours our_cost < <(load 15302 $mill)
  [ $round -gt 0 ] || continue # the first warms up
  echo "round $round: dnsmasq $theirs/s at $their_cost ns, mill $ours/s at $our_cost ns"
  echo "$theirs" >>"$work/theirs"
  echo "$ours" >>"$work/ours"
  echo "$their_cost" >>"$work/their_cost"
  echo "$our_cost" >>"$work/our_cost"
done
awk -v d="$(median <"$work/theirs")" -v m="$(median <"$work/ours")" \
  -v dc="$(median <"$work/their_cost")" -v mc="$(median <"$work/our_cost")" 'BEGIN {
  printf "medians: dnsmasq %d/s at %d ns, mill %d/s at %d ns; ", d, dc, m, mc
  printf "mill/dnsmasq %.2f in answers per second, %.2f in CPU per answer\n", m / d, mc / dc }'
