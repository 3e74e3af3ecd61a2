#!/bin/bash
# W6: the start of a step, /bin/true of a static busybox, side by side with crun and with the bare kernel work.
#   benches/w6.sh [ROUNDS] [STARTS]    needs root, cc, a static busybox; crun if it is to be compared
# Every round runs each case once, so that all see the same machine; printed are the medians over the rounds.
set -euo pipefail
rounds=${1:-7} starts=${2:-100}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

root=$work/rootfs
mkdir -p "$root"/{bin,proc,dev,sys,tmp,etc}
cp "$(command -v busybox)" "$root/bin/busybox"
ln -s busybox "$root/bin/true"
cc -O2 -static -o "$work/floor" "$here/w6_floor.c"
(cd "$here/.." && cargo build --release --quiet -p quern-exec --example start)
target=$(cd "$here/.." && cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
start=$target/release/examples/start

quern() { "$start" "$root" "$starts" "$@" | sed 's/.*median_us \([0-9]*\).*/\1/'; }
floor() { "$work/floor" "$root" "$starts" "$1" /bin/true; }

# crun does not run beside version 1 control groups with a version 2 mount; it gets a namespace without that mount.
crun_case() {
  unshare -m sh -c 'umount /sys/fs/cgroup/unified 2> /dev/null; exec "$@"' sh \
    "$work/floor" "$root" "$starts" - "$(command -v crun)" --cgroup-manager=disabled run -b "$work/$1" quern-w6-@
}
cases="plain quern-none quern-host quern-build floor-mpiu floor-mpiuo floor-mpiuno"
if command -v crun > /dev/null; then
  cases="$cases crun-netns crun-host"
  for net in netns host; do
    mkdir "$work/$net"
    (cd "$work/$net" && crun spec && python3 - "$root" "$net" << 'PY'
import json, sys
c = json.load(open("config.json"))
c["process"].update(args=["/bin/true"], terminal=False)
c["process"].pop("rlimits", None)
c["root"]["path"] = sys.argv[1]
if sys.argv[2] == "host":
    c["linux"]["namespaces"] = [n for n in c["linux"]["namespaces"] if n["type"] != "network"]
json.dump(c, open("config.json", "w"))
PY
    )
  done
fi

run_case() {
  case $1 in
    plain) "$work/floor" "$root" "$starts" - "$root/bin/busybox" true ;;
    quern-*) quern "${1#quern-}" ;;
    floor-*) floor "${1#floor-}" ;;
    crun-*) crun_case "${1#crun-}" ;;
  esac
}

for name in $cases; do run_case "$name" > /dev/null; done
for ((round = 0; round < rounds; round++)); do
  for name in $cases; do run_case "$name" >> "$work/$name.us"; done
done
median() { sort -n "$work/$1.us" | sed -n "$(((rounds + 1) / 2))p"; }
base=$(median quern-none)
echo "| case | median ms | min - max of the rounds | times quern |"
echo "|---|---|---|---|"
for name in $cases; do
  sort -n "$work/$name.us" | awk -v name="$name" -v m="$(median "$name")" -v base="$base" \
    'NR == 1 { low = $1 } { high = $1 } END { printf "| %s | %.2f | %.2f - %.2f | %.2f |\n", name, m / 1000, low / 1000, high / 1000, m / base }'
done
