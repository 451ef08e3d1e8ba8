#!/usr/bin/env bash
# Races Mill against Docker Swarm: the same services of the same image on the same three hosts, one
# after the other, from the command until all replicas run. The image is on every host.
#   tools/versus-swarm.sh [ROUNDS]    5 unless said; needs root, dockerd, iproute2, python3
# Prints milliseconds of each round and the median of the ratios. MILL names another binary than the
# release build, NET another network than 10.76.0. Both are asked again 20 ms after each answer.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5}
mill=$(realpath "${MILL:-${CARGO_TARGET_DIR:-target}/release/mill}")
net=${NET:-76.0}
services=20
replicas=2
dir=$(mktemp -d /tmp/mill-race-XXXXXX)

clean() {
  # The shell need not tell that what it started was killed.
  { tools/hosts.sh down "$dir" && wait; } 2>/dev/null || true
  rm -rf "$dir"
}
trap clean EXIT
trap 'exit 130' INT TERM
failed() { echo "error: $1" >&2; tail -n 5 "$dir"/[123]/*.log >&2 || true; exit 1; }
until_so() { # until_so WHAT CMD...: waits until it succeeds
  local what=$1
  shift
  for _ in $(seq 3000); do
    "$@" >/dev/null 2>&1 && return
    sleep 0.02
  done
  failed "$what: did not come to hold"
}
now() { echo $(($(date +%s%N) / 1000000)); }

start_mill() { # start_mill HOST WHAT...
  local host=$1
  shift
  tools/hosts.sh exec "$dir" "$host" "$mill" "$@" --foreground --name "m$host" \
    --advertise "10.$net.$host" --engine "unix://$dir/$host/docker.sock" \
    --data "$dir/$host/mill" --socket "$dir/$host/mill.sock" >"$dir/$host/mill.log" 2>&1 </dev/null &
}
ask() { MILL_ADDRESS=$dir/1/mill.sock "$mill" "$@"; }
all_up() { [ "$(ask node ls --json | grep -c '"up": *true')" = 3 ]; }
healthy() { [ "$(ask ps --json | grep -c '"phase": *"healthy"')" = $((services * replicas)) ]; }
empty() { [ "$(ask ps --json | tr -d '[:space:]')" = "[]" ]; }
docker_on() { docker -H "unix://$dir/$1/docker.sock" "${@:2}"; }
running() {
  [ "$(docker_on 1 stack ps race --filter desired-state=running --format '{{.CurrentState}}' |
    grep -c '^Running')" = $((services * replicas)) ]
}
none_left() { for host in 1 2 3; do [ -z "$(docker_on "$host" ps -aq)" ] || return 1; done; }

# Swarm and engines that leave containers alone when they restart exclude each other.
ENGINE_FLAGS= tools/hosts.sh up "$dir" "$net" 3
tools/engine.sh images "$dir/1"
docker_on 1 save test/web:1 >"$dir/image.tar"
for host in 2 3; do docker_on "$host" load -q -i "$dir/image.tar" >/dev/null; done

start_mill 1 init
until_so "the first mill answers" ask token create
token=$(ask token create --json | sed -n 's/.*"token": *"\([^"]*\)".*/\1/p')
for host in 2 3; do start_mill "$host" join "10.$net.1" --token "$token"; done
until_so "three mills are up" all_up

docker_on 1 swarm init --advertise-addr "10.$net.1" >/dev/null
token=$(docker_on 1 swarm join-token -q manager)
for host in 2 3; do docker_on "$host" swarm join --token "$token" "10.$net.1:2377" >/dev/null; done

{
  echo "version: '3.8'"
  echo "services:"
  for service in $(seq $services); do
    printf "  s%d:\n    image: test/web:1\n    command: [sleep, '3600']\n    networks: [host]\n" "$service"
    printf "    stop_grace_period: 1s\n    deploy: {replicas: %d}\n" $replicas
  done
  printf "networks:\n  host: {external: true, name: host}\n"
} >"$dir/stack.yml"
{
  echo 'project = "race"'
  for service in $(seq $services); do
    printf '[service.s%d]\nimage = "test/web:1"\ncommand = ["sleep", "3600"]\n' "$service"
    printf 'replicas = %d\nstop = { grace = "1s" }\n' $replicas
  done
} >"$dir/race.toml"
echo 'project = "race"' >"$dir/nothing.toml"

echo "mill $("$mill" --version | cut -d' ' -f2) and Docker $(docker --version | grep -o '[0-9.]*' | head -1)," \
  "$services services of $replicas replicas on 3 hosts, $(nproc) cores"
ratios=()
for round in $(seq "$rounds"); do
  begun=$(now)
  ask deploy --yes --detach -f "$dir/race.toml" >/dev/null
  until_so "all of mill's replicas run" healthy
  ours=$(($(now) - begun))
  ask deploy --yes --wait -f "$dir/nothing.toml" >/dev/null
  until_so "mill has removed them" empty
  until_so "nothing is left of mill's" none_left

  begun=$(now)
  docker_on 1 stack deploy --detach=true --resolve-image never -c "$dir/stack.yml" race >/dev/null 2>&1
  until_so "all of swarm's replicas run" running
  theirs=$(($(now) - begun))
  docker_on 1 stack rm race >/dev/null 2>&1
  until_so "nothing is left of swarm's" none_left

  ratio=$(LC_ALL=C awk -v a=$ours -v b=$theirs 'BEGIN { printf "%.2f", a / b }')
  ratios+=("$ratio")
  echo "round $round: mill $ours ms, swarm $theirs ms, ratio $ratio"
done
printf '%s\n' "${ratios[@]}" | sort -n |
  LC_ALL=C awk '{ all[NR] = $1 } END { print "median ratio", all[int((NR + 1) / 2)] " (below 1: mill is faster)" }'
