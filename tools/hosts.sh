#!/usr/bin/env bash
# Several test hosts on one machine: each a network namespace with a Docker engine and cgroups of
# its own. Needs root, dockerd, iproute2, nftables and curl.
#   tools/hosts.sh up DIR NET N      a switch and N hosts; host I is 10.NET.I (NET is "77.0")
#   tools/hosts.sh net DIR NET N     the same without engines
#   tools/hosts.sh exec DIR I CMD..  becomes CMD on host I: its network, name, cgroup, DOCKER_HOST
#   tools/hosts.sh engine DIR I      starts the engine of host I (again)
#   tools/hosts.sh kill DIR I        power failure: everything of host I dies at one instant
#   tools/hosts.sh cut|heal DIR I    pulls and replugs its network cable
#   tools/hosts.sh block DIR A B [WHAT]  drops what A sends to B; WHAT is tcp/PORT or udp/PORT, else all
#   tools/hosts.sh unblock DIR       drops nothing any more
#   tools/hosts.sh down DIR          removes everything but DIR itself
set -euo pipefail
usage() { sed -n '2,14p' "$0"; exit 2; }
verb=${1:-}
dir=${2:-}
case "$dir" in /*/*) ;; *) usage ;; esac
if [ "$verb" = up ] || [ "$verb" = net ]; then mkdir -p "$dir" && echo "${3:?}" >"$dir/net"; fi
net=10.$(cat "$dir/net")
# Names of namespaces, interfaces (15 characters at most) and cgroups.
prefix=mill${net//./-}-
switch=${prefix}sw
count=${4:-}
cgroups=/sys/fs/cgroup

# Version 1 has a tree per controller, version 2 one tree whose inner groups hold no processes.
if [ -f $cgroups/cgroup.controllers ]; then
  group() { echo "$cgroups/$prefix$1/host"; }
  parent() { echo "/$prefix$1/containers"; }
else
  group() { echo "$cgroups/freezer/$prefix$1"; }
  parent() { echo "/$prefix$1"; }
fi

become() { # become I CMD...: `ip netns exec` would remount /sys and hide the cgroups
  local host=$1
  shift
  mkdir -p "$(group "$host")"
  echo $BASHPID >"$(group "$host")/cgroup.procs"
  exec nsenter --net="/run/netns/$prefix$host" unshare --uts env \
    DOCKER_HOST="unix://$dir/$host/docker.sock" sh -c 'hostname "$0"; exec "$@"' "host$host" "$@"
}

net() {
  # The bridge has a namespace of its own: in the first one br_netfilter and a system engine's
  # rules drop what goes from host to host.
  ip netns add "$switch"
  ip -n "$switch" link set lo up
  ip -n "$switch" link add br0 type bridge
  ip -n "$switch" link set br0 up
  for host in $(seq "$count"); do
    ip netns add "$prefix$host"
    ip -n "$switch" link add "v$host" type veth peer name eth0 netns "$prefix$host"
    ip -n "$switch" link set "v$host" master br0 up
    ip -n "$prefix$host" addr add "$net.$host/24" dev eth0
    ip -n "$prefix$host" link set lo up
    ip -n "$prefix$host" link set eth0 up
    # No default route: a lookup of the outside fails at once instead of after a long while. And
    # nothing for the other hosts ever takes another way, also while the cable is out.
    ip -n "$prefix$host" route add unreachable "$net.0/24" metric 4096
  done
}

up() {
  net
  for host in $(seq "$count"); do engine "$host" & done
  wait
  for host in $(seq "$count"); do [ -S "$dir/$host/docker.sock" ] || exit 1; done
}

engine() {
  local host=$1 at=$dir/$1
  mkdir -p "$at"
  # Files of an engine that was killed keep the next one from starting.
  rm -f "$at/docker.pid" "$at/docker.sock" "$at/exec/containerd/containerd.pid"
  (become "$host" setsid dockerd --data-root "$at/data" --exec-root "$at/exec" \
    --pidfile "$at/docker.pid" -H "unix://$at/docker.sock" --cgroup-parent="$(parent "$host")" \
    --bridge=none --iptables=false --ip6tables=false ${ENGINE_FLAGS---live-restore}) \
    >>"$at/dockerd.log" 2>&1 </dev/null &
  for _ in $(seq 600); do
    curl -sf --max-time 1 --unix-socket "$at/docker.sock" http://engine/_ping >/dev/null && return
    sleep 0.05
  done
  echo "the engine of host $host does not answer:" >&2
  tail -5 "$at/dockerd.log" >&2
  rm -f "$at/docker.sock"
  return 1
}

pids() { find $cgroups/*/"$prefix$1" $cgroups/"$prefix$1" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u || true; }

# Freeze, kill, thaw: all at one instant, and also what has left the host's network namespace.
power_off() {
  local host=$1 at=$dir/$1 found
  if [ -f "$cgroups/$prefix$host/cgroup.kill" ]; then
    echo 1 >"$cgroups/$prefix$host/cgroup.kill"
  elif [ -f "$cgroups/freezer/$prefix$host/freezer.state" ]; then
    echo FROZEN >"$cgroups/freezer/$prefix$host/freezer.state"
    found=$(pids "$host")
    [ -z "$found" ] || kill -9 $found 2>/dev/null || true
    echo THAWED >"$cgroups/freezer/$prefix$host/freezer.state"
  fi
  for _ in $(seq 100); do
    found=$(pids "$host")
    [ -n "$found" ] || break
    kill -9 $found 2>/dev/null || true
    sleep 0.02
  done
  { grep -o " $at/[^ ]*" /proc/mounts || true; } | sort -r | xargs -r -n1 umount -l || true
  rm -rf "$at/exec" "$at/docker.pid" "$at/docker.sock"
  for found in $cgroups/*/"$prefix$host" $cgroups/"$prefix$host"; do
    [ ! -d "$found" ] || find "$found" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
}

hosts() { ip netns list | awk '{ print $1 }' | sed -n "s/^$prefix\([0-9][0-9]*\)$/\1/p"; }

block() {
  local from=$1 to=$prefix$2 what=${3:-}
  nsenter --net="/run/netns/$to" nft add table inet faults
  nsenter --net="/run/netns/$to" nft add chain inet faults in '{ type filter hook input priority 0; }'
  nsenter --net="/run/netns/$to" nft add rule inet faults in \
    ip saddr "$net.$from" ${what:+"${what%/*}" dport "${what#*/}"} drop
}

unblock() {
  for host in $(hosts); do
    nsenter --net="/run/netns/$prefix$host" nft delete table inet faults 2>/dev/null || true
  done
}

down() {
  for host in $(hosts); do
    power_off "$host"
    ip netns del "$prefix$host"
    rm -rf "${dir:?}/$host/data"
  done
  ip netns del "$switch" 2>/dev/null || true
}

case "$verb" in
  up) up ;;
  net) net ;;
  exec) shift 2 && become "$@" ;;
  engine) engine "${3:?}" ;;
  kill) power_off "${3:?}" ;;
  cut) ip -n "$switch" link set "v${3:?}" down ;;
  heal) ip -n "$switch" link set "v${3:?}" up ;;
  block) block "${3:?}" "${4:?}" "${5:-}" ;;
  unblock) unblock ;;
  down) down ;;
  *) usage ;;
esac
