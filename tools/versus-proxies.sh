#!/bin/sh
# Mill's ingress beside nginx and caddy: one worker each, one backend, the same load from wrk.
#
# Needs Debian's nginx, caddy and wrk. Everything listens on loopback and is stopped at the end.
# Usage: tools/versus-proxies.sh [SECONDS] [CONNECTIONS]
set -eu
seconds=${1:-5}
connections=${2:-64}
for tool in nginx caddy wrk curl cargo; do
    command -v "$tool" >/dev/null || { echo "$tool is missing; install it" >&2; exit 1; }
done
target=${CARGO_TARGET_DIR:-target}
cargo build --quiet --release -p mill-ingress --example proxy
work=$(mktemp -d)
chmod 755 "$work" # nginx reads the page as another user
started=""
stop() {
    for pid in $started; do kill "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap stop EXIT INT TERM

head -c 1024 /dev/zero | tr '\0' x >"$work/page"
nginx_config() { # file, port, what the server block holds
    cat >"$work/$1" <<CONFIG
daemon off; worker_processes 1; pid $work/$1.pid; error_log /dev/null;
events { worker_connections 4096; }
http {
    access_log off; keepalive_requests 100000000;
    client_body_temp_path $work/b; proxy_temp_path $work/p; fastcgi_temp_path $work/f;
    uwsgi_temp_path $work/u; scgi_temp_path $work/s;
    upstream web { server 127.0.0.1:18080; keepalive 128; keepalive_requests 100000000; }
    server { listen 127.0.0.1:$2; $3 }
}
CONFIG
}
nginx_config backend.conf 18080 "root $work; default_type text/plain;"
nginx_config proxy.conf 18081 \
    'location / { proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection "";
     proxy_set_header X-Forwarded-For $remote_addr; }'
cat >"$work/Caddyfile" <<CONFIG
{
    admin off
    auto_https off
}
http://:18082 {
    reverse_proxy 127.0.0.1:18080 {
        transport http {
            keepalive_idle_conns_per_host 128
        }
    }
}
CONFIG

nginx -c "$work/backend.conf" 2>/dev/null & started="$started $!"
nginx -c "$work/proxy.conf" 2>/dev/null & started="$started $!"
GOMAXPROCS=1 caddy run --config "$work/Caddyfile" --adapter caddyfile >/dev/null 2>&1 &
started="$started $!"
mkfifo "$work/hold"
"$target/release/examples/proxy" 127.0.0.1:18083 127.0.0.1:18080 1 <"$work/hold" &
started="$started $!"
exec 3>"$work/hold"
for port in 18080 18081 18082 18083; do
    curl -sf --retry 10 --retry-delay 1 --retry-all-errors -o /dev/null "http://localhost:$port/page"
done

rate() { # port
    wrk -t1 -c"$connections" -d"${seconds}s" "http://localhost:$1/page" >"$work/out"
    grep -q 'Non-2xx' "$work/out" && { echo "errors on port $1" >&2; exit 1; }
    awk '/Requests\/sec/ { printf "%d\n", $2 }' "$work/out"
}
for round in 1 2 3; do
    direct=$(rate 18080) nginx=$(rate 18081) caddy=$(rate 18082) mill=$(rate 18083)
    awk -v r="$round" -v d="$direct" -v n="$nginx" -v c="$caddy" -v m="$mill" 'BEGIN {
        printf "round %d: direct %d, nginx %d, caddy %d, mill %d req/s; ", r, d, n, c, m
        printf "mill/nginx %.2f, mill/caddy %.2f\n", m / n, m / c }'
done
