#!/usr/bin/env bash
# Times the solver against ninja on the same graphs of no-op steps, side by side, and prints ratios
# of medians.
#
# usage: benches/w2.sh WORKDIR GEN_GRAPH.py TINY [SIZES] [SHAPES] [RUNS]
#   GEN_GRAPH.py writes WORKDIR/<shape>-<n>/{ninja/build.ninja,json/graph.json};
#   TINY is the helper its ninja steps run (`TINY mk FILE` creates FILE).
# env: COLD=1 also times cold builds (ninja starts one process per step, the solver none: the
#      solver's figure is scheduling overhead, not a build).
set -euo pipefail
work=$(realpath -m "$1"); generator=$(realpath "$2"); tiny=$(realpath "$3")
sizes=${4:-"1000 10000 100000"}; shapes=${5:-"chain fan dag"}; runs=${6:-7}
cd "$(dirname "$0")/.."
cargo build -q --release -p quern-solver --example graph
target=$(cargo metadata --format-version 1 --no-deps | grep -o '"target_directory":"[^"]*"' | cut -d'"' -f4)
graph=$target/release/examples/graph

# Wall time of a command in microseconds.
wall() {
  local start end
  start=$(date +%s%N); "$@" >/dev/null; end=$(date +%s%N)
  echo $(((end - start) / 1000))
}
median() { sort -n | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

printf '%-6s %7s %12s %12s %7s %12s %10s\n' shape n ninja_us quern_us ratio us/vertex KiB
for shape in $shapes; do
  for n in $sizes; do
    python3 "$generator" "$work" --n "$n" --shape "$shape" --for json,ninja --tiny "$tiny"
    dir=$work/$shape-$n; json=$dir/json/graph.json
    rm -rf "$dir/state"
    if [ -n "${COLD:-}" ]; then
      printf 'cold: '; "$graph" "$json" "$dir/state" --timings | tr '\n' ' '; echo
    else
      "$graph" "$json" "$dir/state" >/dev/null
    fi
    (cd "$dir/ninja" && ninja -j2 >/dev/null)
    : >"$dir/ninja.us"; : >"$dir/quern.us"
    # Alternating, so that both see the same machine.
    for _ in $(seq "$runs"); do
      (cd "$dir/ninja" && wall ninja) >>"$dir/ninja.us"
      wall "$graph" "$json" "$dir/state" --null >>"$dir/quern.us"
    done
    a=$(median <"$dir/ninja.us"); b=$(median <"$dir/quern.us")
    kib=$( { /usr/bin/time -f %M "$graph" "$json" "$dir/state" --null >/dev/null; } 2>&1)
    awk -v s="$shape" -v n="$n" -v a="$a" -v b="$b" -v k="$kib" \
      'BEGIN { printf "%-6s %7d %12d %12d %7.2f %12.2f %10d\n", s, n, a, b, a / b, b / n, k }'
  done
done
