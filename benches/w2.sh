#!/usr/bin/env bash
# Times the solver against ninja on the same graphs of no-op steps, side by side: null builds in fresh
# processes, ratios of medians, growth with size; and what a cold build costs the solver per step.
#
# usage: benches/w2.sh WORKDIR GEN_GRAPH.py TINY [SIZES] [SHAPES] [RUNS]
#   GEN_GRAPH.py writes WORKDIR/<shape>-<n>/ninja/build.ninja, which both read;
#   TINY is the helper its steps run (`TINY mk FILE` creates FILE).
# Steps are run by ninja itself in graphs of at most REAL steps (default 1000); in larger ones their
# outputs and ninja's log are written by ninja_state.py, which takes seconds instead of minutes.
# The solver's cold figure is scheduling and saving: its steps start no process.
set -euo pipefail
work=$(realpath -m "$1"); generator=$(realpath "$2"); tiny=$(realpath "$3")
sizes=${4:-"1000 10000 100000"}; shapes=${5:-"chain fan dag"}; runs=${6:-7}
cd "$(dirname "$0")/.."
cargo build -q --release -p quern-solver --example graph
target=$(cargo metadata --format-version 1 --no-deps | grep -o '"target_directory":"[^"]*"' | cut -d'"' -f4)
graph=$target/release/examples/graph
ulimit -s unlimited # ninja walks a chain by recursion

# Wall time of a command in microseconds.
wall() {
  local start end
  start=$(date +%s%N); "$@" >/dev/null; end=$(date +%s%N)
  echo $(((end - start) / 1000))
}
median() { sort -n | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
resident() { { /usr/bin/time -f %M "$@" >/dev/null; } 2>&1; }

printf '%s\n' "$(uptime)"
printf '%-6s %7s | %9s %9s %6s %9s %6s | %9s %9s %6s\n' \
  shape n 'ninja ms' 'null ms' ratio 'us/vertex' 'B/vtx' 'cold ms' 'us/vertex' 'B/vtx'
figures=$work/w2.tsv; mkdir -p "$work"; : >"$figures"
for shape in $shapes; do
  for n in $sizes; do
    python3 "$generator" "$work" --n "$n" --shape "$shape" --for ninja --tiny "$tiny"
    dir=$work/$shape-$n; file=$dir/ninja/build.ninja
    if [ "$n" -le "${REAL:-1000}" ]; then
      (cd "$dir/ninja" && ninja -j2 >/dev/null)
    else
      python3 benches/ninja_state.py "$dir/ninja"
    fi
    (cd "$dir/ninja" && ninja) | grep -q 'no work to do' || { echo "ninja has work to do in $dir" >&2; exit 1; }
    : >"$dir/ninja.us"; : >"$dir/null.us"; : >"$dir/cold.us"
    for _ in 1 2 3; do
      rm -rf "$dir/state"
      # Building and making the cache durable, without reading the graph.
      "$graph" "$file" "$dir/state" --timings | awk '$1 == "build_us" || $1 == "sync_us" { t += $2 } END { print t }' >>"$dir/cold.us"
    done
    # Alternating, so that both see the same machine.
    for _ in $(seq "$runs"); do
      (cd "$dir/ninja" && wall ninja) >>"$dir/ninja.us"
      wall "$graph" "$file" "$dir/state" --null >>"$dir/null.us"
    done
    null_kib=$(resident "$graph" "$file" "$dir/state" --null)
    rm -rf "$dir/cold-state"; cold_kib=$(resident "$graph" "$file" "$dir/cold-state"); rm -rf "$dir/cold-state"
    a=$(median <"$dir/ninja.us"); b=$(median <"$dir/null.us"); c=$(median <"$dir/cold.us")
    printf '%s\t%s\t%s\t%s\t%s\n' "$shape" "$n" "$a" "$b" "$c" >>"$figures"
    awk -v s="$shape" -v n="$n" -v a="$a" -v b="$b" -v c="$c" -v k="$null_kib" -v l="$cold_kib" 'BEGIN {
      printf "%-6s %7d | %9.1f %9.1f %6.2f %9.2f %6d | %9.1f %9.2f %6d\n",
        s, n, a / 1000, b / 1000, a / b, b / n, k * 1024 / n, c / 1000, c / n, l * 1024 / n }'
  done
done
echo 'growth exponents (least squares over the sizes)'
awk -F'\t' '
  function add(k, x, y) { c[k]++; sx[k] += x; sy[k] += y; sxx[k] += x * x; sxy[k] += x * y }
  function slope(k) { return (c[k] * sxy[k] - sx[k] * sy[k]) / (c[k] * sxx[k] - sx[k] ^ 2) }
  { if (!($1 in seen)) { seen[$1] = 1; order[++shapes] = $1 } sizes[$1]++
    x = log($2); add($1 "ninja", x, log($3)); add($1 "null", x, log($4)); add($1 "cold", x, log($5)) }
  END { for (i = 1; i <= shapes; i++) { s = order[i]; if (sizes[s] > 1)
    printf "%-6s ninja %.2f  null %.2f  cold %.2f\n", s, slope(s "ninja"), slope(s "null"), slope(s "cold") } }' "$figures"
printf '%s\n' "$(uptime)"
