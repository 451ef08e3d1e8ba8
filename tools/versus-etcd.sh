#!/usr/bin/env bash
# Compares Mill with etcd: three hosts with a member of each, and a fourth from which both leaders
# are written to in turn. Both sync every write to the same file system.
#   tools/versus-etcd.sh [ARGS]   ARGS for the load, for instance --clients 16 --seconds 10
# Needs root, iproute2, etcd-server and etcd-client. MILL and LOAD name other binaries than the
# release builds, NET another network than 10.78.0, ETCD_PEERS=https lets etcd encrypt what its
# members say to each other, as Mill does.
set -euo pipefail
cd "$(dirname "$0")/.."
built=${CARGO_TARGET_DIR:-target}/release
mill=$(realpath "${MILL:-$built/mill}")
load=$(realpath "${LOAD:-$built/examples/versus}")
net=${NET:-78.0}
peers=${ETCD_PEERS:-http}
dir=$(mktemp -d /tmp/mill-versus-XXXXXX)

clean() {
  # The shell need not tell that what it started was killed.
  { tools/hosts.sh down "$dir" && wait; } 2>/dev/null || true
  rm -rf "$dir"
}
trap clean EXIT
trap 'exit 130' INT TERM
failed() { echo "error: $1" >&2; tail -n 20 "$dir"/[123]/*.log >&2 || true; exit 1; }
until_so() { # until_so WHAT CMD...: waits until it succeeds
  local what=$1
  shift
  for _ in $(seq 300); do
    "$@" >/dev/null 2>&1 && return
    sleep 0.1
  done
  failed "$what: did not come to hold"
}

start_mill() { # start_mill HOST WHAT...
  local host=$1
  shift
  tools/hosts.sh exec "$dir" "$host" "$mill" "$@" --foreground --name "m$host" \
    --advertise "10.$net.$host" --listen "10.$net.$host:7700" --data "$dir/$host/mill" \
    --socket "$dir/$host/mill.sock" >"$dir/$host/mill.log" 2>&1 </dev/null &
}
ask() { MILL_ADDRESS=$dir/1/mill.sock "$mill" "$@"; }
says() { grep -o "$1.*" "$dir/1/mill.log" | sed "s/^$1//" | head -1; }
all_vote() { [ "$(ask node ls --json | grep -c '"votes": *true')" = 3 ]; }

start_etcd() { # start_etcd HOST
  local host=$1 members=() more=()
  for other in 1 2 3; do members+=("e$other=$peers://10.$net.$other:2380"); done
  [ "$peers" = http ] || more=(--peer-auto-tls)
  tools/hosts.sh exec "$dir" "$host" etcd --name "e$host" --data-dir "$dir/$host/etcd" \
    --listen-client-urls "http://10.$net.$host:2379" \
    --advertise-client-urls "http://10.$net.$host:2379" \
    --listen-peer-urls "$peers://10.$net.$host:2380" \
    --initial-advertise-peer-urls "$peers://10.$net.$host:2380" \
    --initial-cluster "$(IFS=,; echo "${members[*]}")" --log-level warn "${more[@]}" \
    >"$dir/$host/etcd.log" 2>&1 </dev/null &
}
etcdctl_all() {
  tools/hosts.sh exec "$dir" 4 env ETCDCTL_API=3 etcdctl \
    --endpoints "10.$net.1:2379,10.$net.2:2379,10.$net.3:2379" "$@"
}
etcd_leader() { etcdctl_all endpoint status | awk -F', ' '$5 == "true" { print $1 }'; }

tools/hosts.sh net "$dir" "$net" 4
mkdir -p "$dir"/{1,2,3}
start_mill 1 init
until_so "the first mill leads" says "API token, shown only now: "
until_so "the first mill says how to join" ask token create
token=$(ask token create --json | sed -n 's/.*"token": *"\([^"]*\)".*/\1/p')
for host in 2 3; do start_mill "$host" join "10.$net.1" --token "$token"; done
for host in 1 2 3; do start_etcd "$host"; done
until_so "three mills vote" all_vote
until_so "etcd has a leader" etcdctl_all endpoint health

MILL_TOKEN=$(says "API token, shown only now: ")
export MILL_TOKEN
echo "mill $("$mill" --version | cut -d' ' -f2) and etcd $(etcd --version | sed -n 's/etcd Version: //p')," \
  "$(nproc) cores, $(df --output=fstype "$dir" | tail -1), etcd's members over $peers"
tools/hosts.sh exec "$dir" 4 "$load" --mill "10.$net.1:7700" --node m1 --etcd "$(etcd_leader)" "$@" \
  || failed "the load was not served"
