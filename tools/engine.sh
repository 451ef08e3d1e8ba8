#!/usr/bin/env bash
# A Docker engine of a test's own, in a directory that can be thrown away. Needs root and dockerd.
#   tools/engine.sh start DIR     prints the engine's address once it answers
#   tools/engine.sh images DIR    builds the test images: test/web:1, :2 (serves /healthz and /), ...
#   tools/engine.sh server DIR PROGRAM  builds test/serve:1 and :2, which run that program
#   tools/engine.sh kill DIR      kills the engine alone; containers go on
#   tools/engine.sh stop DIR      removes containers, engine and what they left, not DIR itself
set -euo pipefail
verb=${1:-}
case "$verb" in start | images | server | kill | stop) ;; *) sed -n '2,7p' "$0"; exit 2 ;; esac
dir=${2:?name a directory}
# What is removed and killed is found by this path: one that is too short finds everything.
dir=$(realpath -ms -- "$dir")
case "${2}" in /*) ;; *) echo "$2 is not an absolute path" >&2; exit 2 ;; esac
if [ "$dir" = / ]; then echo "/ is not a directory that can be thrown away" >&2; exit 2; fi
socket=$dir/docker.sock
engine() { docker -H "unix://$socket" "$@"; }

start() {
  mkdir -p "$dir"
  # Files of an engine that was killed keep the next one from starting.
  rm -f "$dir/docker.pid" "$socket" "$dir/exec/containerd/containerd.pid"
  setsid dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/docker.pid" \
    -H "unix://$socket" --bridge=none --iptables=false --ip6tables=false --live-restore \
    >>"$dir/dockerd.log" 2>&1 </dev/null &
  for _ in $(seq 600); do
    curl -sf --max-time 1 --unix-socket "$socket" http://engine/_ping >/dev/null && { echo "unix://$socket"; return; }
    sleep 0.05
  done
  tail -5 "$dir/dockerd.log" >&2
  exit 1
}

images() {
  root=$(mktemp -d)
  trap 'rm -rf "$root"' EXIT
  mkdir -p "$root/bin" "$root/www/cgi-bin"
  cp "$(command -v busybox)" "$root/bin/busybox"
  for applet in sh httpd sleep echo cat kill nc env; do ln -s busybox "$root/bin/$applet"; done
  printf '#!/bin/sh\nprintf "Content-Type: text/plain\\n\\nversion=$VERSION alloc=$MILL_ALLOC port=$PORT\\n"\n' \
    >"$root/www/cgi-bin/index.cgi"
  # httpd ignores SIGTERM as PID 1, so a shell that traps it stands above.
  cat >"$root/bin/serve" <<'RUN'
#!/bin/sh
httpd -f -p "${PORT:-8080}" -h /www & server=$!
trap 'kill $server; exit 0' TERM INT
echo "version $VERSION listens on ${PORT:-8080}"
wait $server
RUN
  chmod +x "$root/bin/serve" "$root/www/cgi-bin/index.cgi"
  echo ok >"$root/www/healthz"
  for version in 1 2; do
    tar -C "$root" -c bin www | engine import -c 'CMD ["/bin/serve"]' \
      -c "ENV VERSION=$version PATH=/bin" - "test/web:$version" >/dev/null
  done
}

# An image is a program with the libraries that it loads.
server() {
  local program=${1:?name a program}
  root=$(mktemp -d)
  trap 'rm -rf "$root"' EXIT
  mkdir -p "$root/bin"
  cp "$program" "$root/bin/serve"
  strip "$root/bin/serve"
  ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
  done
  for version in 1 2; do
    tar -C "$root" -c . | engine import -c 'CMD ["/bin/serve"]' -c "ENV VERSION=$version" \
      - "test/serve:$version" >/dev/null
  done
}

kill_engine() {
  local pid
  pid=$(cat "$dir/docker.pid" 2>/dev/null) || return 0
  kill -9 "$pid" 2>/dev/null || true
  if [ -f "$dir/exec/containerd/containerd.pid" ]; then
    kill -9 "$(cat "$dir/exec/containerd/containerd.pid")" 2>/dev/null || true
  fi
}

stop() {
  if [ ! -f "$dir/dockerd.log" ]; then
    echo "$dir was not made by \`$0 start\`: there is no dockerd.log in it" >&2
    exit 2
  fi
  if [ -S "$socket" ] && engine info >/dev/null 2>&1; then
    engine ps -aq | xargs -r docker -H "unix://$socket" rm -f >/dev/null 2>&1 || true
  fi
  kill_engine
  # Shims of containers that the engine could not remove any more name its directory; what such a
  # container runs is the shim's child, and would go on without it.
  for shim in $(pgrep -f "containerd-shim.*$dir/"); do
    pkill -9 -P "$shim" 2>/dev/null || true
    kill -9 "$shim" 2>/dev/null || true
  done
  sleep 0.2
  grep -o " $dir/[^ ]*" /proc/mounts | sort -r | while read -r mount; do umount -l "$mount" || true; done
  rm -rf "$dir/data" "$dir/exec" "$socket"
}

case "$verb" in
  start) start ;;
  images) images ;;
  server) server "${3:-}" ;;
  kill) kill_engine ;;
  stop) stop ;;
esac
