#!/usr/bin/env bash
# Installs what a bare Debian machine lacks, and only that. Needs root for what is missing.
#   tools/install.sh build     what compiling needs
#   tools/install.sh engine    a container engine, running, and what the demo's images are made of
#   tools/install.sh test      what the tests use beside those
#   tools/install.sh etcd      what Mill is compared with
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[2m%s\033[0m\n' "$*" >&2; }
busy() { # busy WORDS COMMAND...: says what it does; on a terminal something turns meanwhile
  local words=$1 pid turn=0
  shift
  [ -t 2 ] || { say "$words"; "$@"; return; }
  "$@" &
  pid=$!
  trap 'kill $pid' INT TERM
  while kill -0 $pid 2>/dev/null; do
    printf '\r\033[2m%s %s\033[0m' "${spinner:turn++%4:1}" "$words" >&2
    sleep 0.2
  done
  trap - INT TERM
  printf '\r\033[K' >&2
  say "$words"
  wait $pid
}
spinner='|/-\'
die() { echo "error: $*" >&2; exit 1; }

packages() { # packages COMMAND=PACKAGE...: installs the packages whose command is missing
  local missing=() pair
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || [ -x "/usr/sbin/${pair%%=*}" ] || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || die "install these packages first, or run this as root: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  busy "looking for packages" apt-get update -qq
  busy "installing ${missing[*]}" \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

crate() { # crate NAME VERSION [OPTION...]: builds the tool, if there is none; takes minutes
  command -v "$1" >/dev/null && return
  busy "building $1, which takes some minutes" \
    cargo install --locked --quiet "$1" --version "$2" "${@:3}"
}

build() {
  packages cc=gcc mold=mold make=make
  command -v cargo >/dev/null || die "Rust is missing: install it from https://rustup.rs, then repeat this"
}

engine_answers() { curl -sf --max-time 5 --unix-socket /var/run/docker.sock http://engine/_ping >/dev/null; }

engine_comes() {
  for _ in $(seq 300); do engine_answers && return; sleep 0.1; done
  return 1
}

start_engine() {
  if [ -d /run/systemd/system ]; then
    systemctl start docker
  else
    # Mill uses the host's network, so the engine needs no bridge and no firewall rules of its own.
    rm -f /var/run/docker.pid
    setsid dockerd --bridge=none --iptables=false --ip6tables=false --live-restore \
      >/var/log/mill-dockerd.log 2>&1 </dev/null &
  fi
  busy "waiting for the Docker engine" engine_comes ||
    die "the Docker engine does not start; see /var/log/mill-dockerd.log"
}

engine() {
  [ -z "${DOCKER_HOST:-}" ] || return 0
  packages dockerd=docker.io curl=curl busybox=busybox-static docker=docker.io
  engine_answers && return
  [ "$(id -u)" = 0 ] || die "no Docker engine answers; start it, or run this as root"
  say "starting the Docker engine"
  start_engine
}

# Clients that the ingress is tested with; the tests look for them here.
clients() {
  local home=/opt/mill-clients wanted="websockets==15.0.1 grpcio==1.76.0"
  [ "$(cat "$home/installed" 2>/dev/null)" != "$wanted" ] || return 0
  [ "$(id -u)" = 0 ] || die "$home lacks $wanted; run this as root"
  packages /usr/bin/python3=python3
  # Debian has this part of Python in a package without a command.
  /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || packages no-command=python3-venv
  busy "installing $wanted" fill_clients "$home" "$wanted"
}

fill_clients() {
  rm -rf "$1"
  /usr/bin/python3 -m venv "$1"
  # shellcheck disable=SC2086 # several words
  "$1/bin/pip" install --quiet --no-input --only-binary :all: $2
  echo "$2" >"$1/installed"
}

tools() {
  packages docker-registry=docker-registry htpasswd=apache2-utils ip=iproute2 dockerd=docker.io \
    curl=curl busybox=busybox-static docker=docker.io pgrep=procps nft=nftables nsenter=util-linux
  packages wireguard-go=wireguard-go wg=wireguard-tools iperf3=iperf3 pebble=pebble dig=bind9-dnsutils openssl=openssl
  clients
  crate cargo-nextest 0.9.143
  crate cargo-deny 0.20.2 --debug
}

case "${1:-}" in
  build) build ;;
  engine) engine ;;
  test) tools ;;
  etcd) packages etcd=etcd-server etcdctl=etcd-client ;;
  *) sed -n '2,6p' "$0"; exit 2 ;;
esac
