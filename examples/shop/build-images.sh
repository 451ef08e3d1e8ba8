#!/usr/bin/env bash
# Builds the demo's three images from a static busybox, without any registry.
set -euo pipefail
cd "$(dirname "$0")"
busybox=$(command -v busybox)
for image in web api worker; do
  root=$(mktemp -d)
  trap 'rm -rf "$root"' EXIT
  mkdir -p "$root/bin" "$root/www"
  cp "$busybox" "$root/bin/busybox"
  for applet in sh httpd sleep echo cat hostname kill date; do ln -s busybox "$root/bin/$applet"; done
  cp "bin/$image" "$root/bin/run"
  [ ! -d "$image" ] || cp -r "$image/." "$root/www/"
  tar -C "$root" -c . | docker import \
    -c 'CMD ["/bin/run"]' -c 'ENV PATH=/bin' - "mill-demo/$image:1" >/dev/null
  rm -rf "$root"
  echo "built mill-demo/$image:1"
done
