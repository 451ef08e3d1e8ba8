#!/usr/bin/env bash
# Mill's WireGuard in its own process beside wireguard-go: iperf3 over TCP between two network
# namespaces, in turns, so that both see the same machine. Prints each turn, and the median of the
# ratios. Needs root, iproute2, iperf3, wireguard-go and wireguard-tools (tools/install.sh test).
#   tools/versus-wireguard.sh [TURNS [SECONDS]]
set -euo pipefail
cd "$(dirname "$0")/.."
turns=${1:-5}
seconds=${2:-4}
cargo build --locked --release --quiet --workspace --example mesh
mesh=$(realpath "${CARGO_TARGET_DIR:-target}/release/examples/mesh")
id=$$
a=millwg-$id-a
b=millwg-$id-b
work=$(mktemp -d)
pids=()

stop() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  pids=()
}
clean() {
  stop
  ip netns del "$a" 2>/dev/null || true
  ip netns del "$b" 2>/dev/null || true
  rm -rf "$work" /var/run/wireguard/wg$id-[12].sock
}
trap clean EXIT
umask 077

ip netns add "$a"
ip netns add "$b"
ip -n "$a" link add eth0 type veth peer name eth0 netns "$b"
number=1
for host in "$a" "$b"; do
  ip -n "$host" addr add 10.213.0.$number/24 dev eth0
  ip -n "$host" link set lo up
  ip -n "$host" link set eth0 up
  ip -n "$host" route add unreachable 10.213.0.0/16 metric 4096
  ip -n "$host" route add unreachable 10.214.0.0/16 metric 4096
  wg genkey >"$work/$number"
  wg pubkey <"$work/$number" >"$work/$number.pub"
  number=$((number + 1))
done

in_host() { nsenter --net="/run/netns/$1" "${@:2}"; }
listens() { in_host "$b" ss -ltn | grep -q ':5201 '; }
until_true() { for _ in $(seq 100); do "$@" >/dev/null 2>&1 && return; sleep 0.05; done; return 1; }

up_mesh() { # up_mesh HOST NUMBER OTHER
  rm -f "$work/out$2"
  mkfifo "$work/stdin$2" 2>/dev/null || true
  nsenter --net="/run/netns/$1" "$mesh" "wg$id-$2" "$(cat "$work/$2")" 51820 "10.214.0.$2/16" \
    "$(cat "$work/$3.pub")" "10.213.0.$3:51820" "10.214.0.$3/32" \
    <>"$work/stdin$2" >"$work/out$2" 2>&1 &
  pids+=($!)
  until_true grep -q up "$work/out$2" || { cat "$work/out$2" >&2; exit 1; }
}

up_go() {
  nsenter --net="/run/netns/$1" wireguard-go -f "wg$id-$2" >/dev/null 2>&1 &
  pids+=($!)
  until_true wg show "wg$id-$2"
  wg set "wg$id-$2" private-key "$work/$2" listen-port 51820 peer "$(cat "$work/$3.pub")" \
    endpoint "10.213.0.$3:51820" allowed-ips "10.214.0.$3/32"
  ip -n "$1" addr add "10.214.0.$2/16" dev "wg$id-$2"
  ip -n "$1" link set "wg$id-$2" mtu 1420 up
}

measure() { # measure WHICH: Mbit/s
  "up_$1" "$a" 1 2
  "up_$1" "$b" 2 1
  nsenter --net="/run/netns/$b" iperf3 -s -1 -B 10.214.0.2 >/dev/null 2>&1 &
  pids+=($!)
  until_true listens || { echo "iperf3 does not listen" >&2; exit 1; }
  in_host "$a" iperf3 -c 10.214.0.2 -t "$seconds" -f m |
    awk '/receiver/ { for (i = 1; i < NF; i++) if ($(i + 1) ~ /bits/) rate = $i }
      END { print rate }' >"$work/rate"
  stop
}

for turn in $(seq "$turns"); do
  measure mesh
  ours=$(cat "$work/rate")
  measure go
  theirs=$(cat "$work/rate")
  ratio=$(awk "BEGIN { printf \"%.2f\", $ours / $theirs }")
  echo "turn $turn: mill-mesh $ours Mbit/s, wireguard-go $theirs Mbit/s, ratio $ratio"
  echo "$ratio" >>"$work/ratios"
done
echo "median ratio: $(sort -n "$work/ratios" | sed -n "$(((turns + 1) / 2))p")"
