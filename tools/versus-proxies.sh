#!/bin/bash
# Mill's ingress beside nginx and Caddy: the same backend, the same load from wrk, a core each.
#
# Plain and TLS, bodies of 1 KiB and 100 KiB, 64 and 512 kept connections. Needs Debian's nginx,
# caddy, wrk and openssl, and two cores: the proxy has one, wrk and the backend (nginx) the other.
# Everything listens on loopback and is stopped at the end. Besides throughput and the 99th
# percentile it prints the CPU time of one request, which depends least on what else runs.
# Usage: tools/versus-proxies.sh [SECONDS] [ROUNDS] [ONLY], ONLY being a pattern such as 'tls 1 *'
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-4} rounds=${2:-3} only=${3:-*}
for tool in nginx caddy wrk curl openssl taskset pgrep cargo; do
  command -v $tool >/dev/null || { echo "$tool is missing; install it" >&2; exit 1; }
done
target=${CARGO_TARGET_DIR:-target}
proxy=${PROXY:-$target/release/examples/proxy}
[ -n "${PROXY:-}" ] || cargo build --quiet --locked --release --workspace --example proxy
work=$(mktemp -d)
chmod 755 "$work" # nginx reads the pages as another user
started=()
share() { echo "$1" >/proc/self/autogroup; } 2>/dev/null
stop() {
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  share 0 || true
  rm -rf "$work"
}
trap stop EXIT INT TERM
share -19 || true # before what else runs on this machine, where that is allowed (sched(7))

for size in 1 100; do head -c $((size * 1024)) /dev/zero | tr '\0' x >"$work/page$size"; done
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost -keyout "$work/key" -out "$work/certificate" 2>/dev/null

nginx_config() { # nginx_config FILE, what the http block holds
  cat >"$work/$1" <<CONFIG
daemon off; worker_processes 1; pid $work/$1.pid; error_log /dev/null;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 100000000; default_type text/plain;
  client_body_temp_path $work/b; proxy_temp_path $work/p; fastcgi_temp_path $work/f;
  uwsgi_temp_path $work/u; scgi_temp_path $work/s;
  $2
}
CONFIG
}
nginx_config backend.conf "server { listen 127.0.0.1:18080; root $work; sendfile on; }"
nginx_config proxy.conf "
  upstream web { server 127.0.0.1:18080; keepalive 512; keepalive_requests 100000000; }
  ssl_protocols TLSv1.2 TLSv1.3; # as the others do, which shows in the first requests
  ssl_certificate $work/certificate; ssl_certificate_key $work/key;
  server {
    listen 127.0.0.1:18081; listen 127.0.0.1:18481 ssl;
    location / {
      proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection \"\";
      proxy_set_header X-Forwarded-For \$remote_addr;
    }
  }"
cat >"$work/Caddyfile" <<CONFIG
{
  admin off
  auto_https off
}
(web) {
  reverse_proxy 127.0.0.1:18080 {
    transport http {
      keepalive_idle_conns_per_host 512
    }
  }
}
http://:18082 {
  import web
}
https://localhost:18482 {
  tls $work/certificate $work/key
  import web
}
CONFIG
mkfifo "$work/hold"
taskset -c 0 nginx -c "$work/backend.conf" 2>/dev/null & started+=($!)
taskset -c 1 nginx -c "$work/proxy.conf" 2>/dev/null & started+=($!) nginx=$!
GOMAXPROCS=1 taskset -c 1 caddy run --config "$work/Caddyfile" --adapter caddyfile >/dev/null 2>&1 &
started+=($!) caddy=$!
taskset -c 1 "$proxy" 127.0.0.1:18083 127.0.0.1:18080 1 127.0.0.1:18483 \
  "$work/certificate" "$work/key" <"$work/hold" & started+=($!) mill=$!
exec 3>"$work/hold"
for end in http://localhost:1808{0..3} https://localhost:1848{1..3}; do
  curl -skf --retry 10 --retry-delay 1 --retry-all-errors -o /dev/null "$end/page1"
done
nginx=$(pgrep -P "$nginx") # its one worker

ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }
load() { # load URL CONNECTIONS PID: requests per second, p99 in ms, microseconds of CPU for each
  local before after
  before=$(ticks "$3")
  taskset -c 0 wrk -t1 -c"$2" -d"${seconds}s" --latency "$1" >"$work/out"
  after=$(ticks "$3")
  # Those that took more than 2 s are counted as timeouts, and are in the percentile.
  grep -qE 'Non-2xx|Socket errors: .*(connect|read|write) [1-9]' "$work/out" &&
    { cat "$work/out" >&2; exit 1; }
  awk -v ticks=$((after - before)) -v hertz="$(getconf CLK_TCK)" '
    $1 == "99%" { p99 = $2 * ($2 ~ /us$/ ? 0.001 : $2 ~ /ms$/ ? 1 : 1000) }
    / requests in / { done = $1 }
    /Requests\/sec/ { printf "%d %.3f %.1f\n", $2, p99, ticks / hertz / done * 1e6 }' "$work/out"
}
row() { # row NAME FILE: medians, and the median of ratios with the least and the greatest
  awk -v name="$1" '
    function put(x, list, n) { for (; n > 0 && list[n] > x; n--) list[n + 1] = list[n]; list[n + 1] = x }
    function mid(list) { return list[int((NR + 1) / 2)] }
    function over(list) { return sprintf("%.2f [%.2f .. %.2f]", mid(list), list[1], list[NR]) }
    { n = NR - 1
      put($1, nr, n); put($2, np, n); put($3, nc, n); put($4, cr, n); put($5, cp, n); put($6, cc, n)
      put($7, mr, n); put($8, mp, n); put($9, mc, n)
      put($7 / $1, rn, n); put($7 / $4, rc, n); put($8 / $2, pn, n); put($8 / $5, pc, n) }
    END {
      printf "| %s | %d / %d / %d | %s | %s ", name, mid(nr), mid(cr), mid(mr), over(rn), over(rc)
      printf "| %.2f / %.2f / %.2f | %s | %s ", mid(np), mid(cp), mid(mp), over(pn), over(pc)
      printf "| %.1f / %.1f / %.1f |\n", mid(nc), mid(cc), mid(mc) }' "$2"
}

echo "N is nginx, C is Caddy, M is Mill; requests per second are better above, p99 below."
echo
echo "| scheme, KiB, connections | req/s N / C / M | M/N | M/C | p99 ms N / C / M | M/N | M/C | CPU us N / C / M |"
echo "| --- | --- | --- | --- | --- | --- | --- | --- |"
for scheme in plain tls; do
  for size in 1 100; do
    for connections in 64 512; do
      # shellcheck disable=SC2053 # a pattern
      [[ "$scheme $size $connections" == $only ]] || continue
      if [ $scheme = tls ]; then url=https://localhost:1848; else url=http://localhost:1808; fi
      : >"$work/rounds"
      for ((round = 0; round < rounds; round++)); do
        theirs=$(load "${url}1/page$size" $connections "$nginx")
        caddys=$(load "${url}2/page$size" $connections "$caddy")
        ours=$(load "${url}3/page$size" $connections "$mill")
        echo "$theirs $caddys $ours" >>"$work/rounds"
      done
      row "$scheme, $size, $connections" "$work/rounds"
    done
  done
done
